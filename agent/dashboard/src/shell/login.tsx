import { useEffect, useRef, useState } from "preact/hooks";
import { loginReason, setToken, token } from "../state/token";
import { Dialog } from "../ui/dialog";

/** Asks for the token that the agent requires. */
export function Login() {
  const [text, setText] = useState("");
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => input.current?.focus(), []);
  return (
    <Dialog label="Token required">
      <form
        class="login"
        onSubmit={(event) => {
          event.preventDefault();
          if (text.trim()) setToken(text.trim());
        }}
      >
        <h2>This agent requires a token</h2>
        {token.value !== null && (
          <p class="notice bad" role="alert">
            The agent rejected the token: {loginReason.value}
          </p>
        )}
        <label>
          Token
          <input
            ref={input}
            type="password"
            autocomplete="off"
            value={text}
            onInput={(event) => setText(event.currentTarget.value)}
          />
        </label>
        <button type="submit" class="primary">
          Continue
        </button>
        <p class="note">
          Tokens are lines of the files <code>http.read_tokens_file</code> and{" "}
          <code>http.admin_tokens_file</code>. This browser forgets it when its last tab
          of this agent is closed.
        </p>
      </form>
    </Dialog>
  );
}
