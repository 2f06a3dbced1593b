// Talking to the server: bearer token kept for this tab, problems as errors, events over fetch (EventSource cannot
// send a token).

const KEY = "sangloc.token";
let askToken = async () => null;

export class Trouble extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function onTokenWanted(ask) {
  askToken = ask;
}

function headers(extra) {
  const token = sessionStorage.getItem(KEY);
  return token ? { ...extra, Authorization: `Bearer ${token}` } : { ...extra };
}

let asking = null;

async function newToken() {
  const again = sessionStorage.getItem(KEY) !== null;
  asking ??= askToken(again).finally(() => { asking = null; });
  sessionStorage.setItem(KEY, await asking);
}

export async function request(path, options = {}) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, { ...options, headers: headers(options.headers) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Trouble(0, "network");
    }
    if (answer.status === 401) {
      await newToken();
      continue;
    }
    if (!answer.ok) {
      const problem = await answer.json().catch(() => ({}));
      throw new Trouble(answer.status, problem.detail || problem.title || String(answer.status));
    }
    return answer;
  }
}

export async function getJson(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value != null));
  const text = query.toString();
  return (await request(text ? `${path}?${text}` : path)).json();
}

export async function putJson(path, body) {
  const options = { method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return (await request(path, options)).json();
}

// Calls changed() for each event and alive(true | false) as the stream comes and goes; reconnects for ever.
export async function follow(path, changed, alive) {
  for (let pause = 500; ; pause = Math.min(pause * 2, 10000)) {
    try {
      const answer = await request(path, { headers: { Accept: "text/event-stream" } });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      alive(true);
      pause = 500;
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const events = (rest + value).split("\n\n");
        rest = events.pop();
        if (events.some((event) => event.startsWith("event: changed"))) changed();
      }
    } catch { /* the server went away: told by alive(false) */ }
    alive(false);
    await new Promise((resolve) => { setTimeout(resolve, pause); });
  }
}
