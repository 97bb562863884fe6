export function ProcessesView() {
  return <h1>Processes</h1>;
}
