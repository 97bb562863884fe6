// A field for the find and hide language, with completion and errors.
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { completeFind, type Completion } from "./complete";
import type { Selection } from "./filter";
import { MAX_LENGTH } from "./find";

interface SearchFieldProps {
  label: string;
  placeholder: string;
  value: string;
  names: readonly string[];
  selection: Selection;
  /** "3 nodes and 1 edge match" and the like. */
  status: string;
  onChange: (text: string) => void;
}

export function SearchField(props: SearchFieldProps) {
  const id = useId();
  const [text, setText] = useState(props.value);
  const [isOpen, setOpen] = useState(false);
  const [active, setActive] = useState(-1);
  const input = useRef<HTMLInputElement>(null);
  // The address may change by the browser's Back.
  useEffect(() => setText(props.value), [props.value]);
  const completions = isOpen ? completeFind(text, props.names) : [];
  const change = (next: string) => {
    setText(next);
    setActive(-1);
    props.onChange(next);
  };
  const accept = (completion: Completion) => {
    change(completion.text);
    input.current?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && completions.length) {
      event.preventDefault();
      setActive((active + step + completions.length) % completions.length);
    } else if (event.key === "Enter" && completions[active]) {
      event.preventDefault();
      accept(completions[active]);
    } else if (event.key === "Escape") {
      if (completions.length) setOpen(false);
      else change("");
    } else setOpen(true);
  };
  // What is still being typed is not wrong.
  const { error } = props.selection;
  const isInvalid = error !== null && error.start < text.trimEnd().length;
  return (
    <div class="search-field">
      <label for={`${id}-input`}>{props.label}</label>
      <input
        ref={input}
        id={`${id}-input`}
        type="text"
        role="combobox"
        autocomplete="off"
        spellcheck={false}
        maxLength={MAX_LENGTH}
        placeholder={props.placeholder}
        value={text}
        aria-expanded={completions.length > 0}
        aria-controls={`${id}-list`}
        aria-autocomplete="list"
        aria-activedescendant={active < 0 ? undefined : `${id}-${active}`}
        aria-invalid={isInvalid}
        aria-describedby={`${id}-status`}
        onInput={(event) => {
          setOpen(true);
          change(event.currentTarget.value);
        }}
        onClick={() => setOpen(true)}
        onBlur={() => setOpen(false)}
        onKeyDown={onKeyDown}
      />
      <ul
        id={`${id}-list`}
        role="listbox"
        aria-label={`${props.label}: completions`}
        hidden={completions.length === 0}
      >
        {completions.map((completion, index) => (
          <li
            key={completion.label}
            id={`${id}-${index}`}
            role="option"
            aria-selected={index === active}
            // The field must keep the focus.
            onMouseDown={(event) => event.preventDefault()}
            onClick={() => accept(completion)}
          >
            <code>{completion.label}</code> <span>{completion.hint}</span>
          </li>
        ))}
      </ul>
      <p id={`${id}-status`} class={isInvalid ? "error" : "status"} role="status">
        {error ? `${error.message} (at character ${error.start + 1})` : props.status}
      </p>
    </div>
  );
}

/** Returns what a selection has matched, in words. */
export function describeSelection(selection: Selection, verb: string): string {
  if (!selection.keys) return "";
  const count = (number: number, noun: string) =>
    `${number} ${noun}${number === 1 ? "" : "s"}`;
  const parts = [count(selection.nodes, "node")];
  if (selection.edges) parts.push(count(selection.edges, "edge"));
  return `${parts.join(" and ")} ${verb}`;
}
