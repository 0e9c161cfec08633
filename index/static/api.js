// Requests to the server: every refusal is an Error whose message is a sentence for the reader.

export class Refusal extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

export class Away extends Error {}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away("The server does not answer.");
  }
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const said = await answer.json().catch(() => ({}));
  throw new Refusal(answer.status, said.error ?? `The server answered ${answer.status}.`);
}

export const describe = () => ask("/api/index");
export const map = (method) => ask(`/api/map?method=${method}`);
export const clip = (id) => ask(`/api/clips/${encodeURIComponent(id)}`);
export const upload = (file, signal) => ask("/api/uploads", { method: "POST", body: file, signal, headers: { "content-type": "application/octet-stream" } });
export const search = (query, signal) => ask("/api/search", { method: "POST", body: JSON.stringify(query), signal, headers: { "content-type": "application/json" } });
export const enter = (token) => ask("/api/session", { method: "POST", headers: { authorization: `Bearer ${token}` } });
export const reason = (path) => ask(path).then(() => "", (error) => error.message);
