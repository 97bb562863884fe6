// Runs apart from the page, so that a large graph never blocks it.
export {};
