export { live } from "../state/live";
