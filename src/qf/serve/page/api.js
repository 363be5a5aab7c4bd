// The server, as the page sees it: JSON in and out, events as they come, errors as one sentence.

const KEY = "qf-key";

export const access = new EventTarget(); // "refused": a key is missing or wrong

export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param });
  }
}

let remembered = ""; // where the browser keeps nothing for this page

export function key() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return remembered;
  }
}

export function setKey(value) {
  remembered = value;
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // Kept until the page is closed.
  }
}

/** The response to a request that was accepted; raises ApiError. `body`: an object, or a File. */
export async function request(path, { method, body, signal } = {}) {
  const headers = {};
  if (key()) headers.Authorization = `Bearer ${key()}`;
  const binary = body instanceof Blob;
  if (body !== undefined) headers["Content-Type"] = binary ? "application/octet-stream" : "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers,
      body: body === undefined || binary ? body : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

export async function call(path, options) {
  return (await request(path, options)).json();
}

/** Server-sent events as {event, data}; an error that comes as an event is raised. */
export async function* events(path, options) {
  const response = await request(path, options);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      let part;
      try {
        part = await reader.read();
      } catch (error) {
        throw error.name === "AbortError" ? error : unreachable();
      }
      if (part.done) return;
      const blocks = (held + part.value).replaceAll("\r\n", "\n").split("\n\n");
      held = blocks.pop();
      for (const block of blocks) {
        const event = parsed(block);
        if (!event) continue;
        if (event.data.error) throw told(event.data.error);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  let event = "message";
  const lines = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    if (line.startsWith("data:")) lines.push(line.slice(5).replace(/^ /, ""));
  }
  const text = lines.join("\n");
  return text && text !== "[DONE]" ? { event, data: JSON.parse(text) } : null;
}

async function refusal(response) {
  let error;
  try {
    error = told((await response.json()).error, response.status);
  } catch {
    error = new ApiError(`The server answered with status ${response.status}.`, { status: response.status });
  }
  const wait = response.headers.get("Retry-After");
  if (response.status === 429 && wait) error.message += ` Try again in ${wait} s.`;
  if (response.status === 401) access.dispatchEvent(new CustomEvent("refused", { detail: error }));
  return error;
}

const told = ({ message, code, param }, status = 0) => new ApiError(message, { status, code, param });

const unreachable = () => new ApiError("The server cannot be reached: see whether qf serve is running.");
