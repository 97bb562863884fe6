import { render } from "preact";
import "./styles/main.css";
import { App } from "./app";

const root = document.getElementById("page");
if (root) render(<App />, root);
