export { Link } from "../ui/link";
