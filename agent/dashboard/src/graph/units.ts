export { formatCount, formatDuration, formatMoney, formatShare } from "../ui/format";
