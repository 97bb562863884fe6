import { render } from "preact";
import "./styles/main.css";
import { App } from "./app";
import { startLive } from "./state/live";

const root = document.getElementById("page");
if (root) render(<App />, root);
startLive();
