// Requests to the server. A session is one tab's: its token is kept for as long as the tab lives.

const KEY = "siamese-mrcnn-session";
let token = sessionStorage.getItem(KEY);

export class ServerError extends Error {
  constructor(text, status) {
    super(text);
    this.status = status;
  }
}

async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new ServerError("the program does not answer; is it still running?", 0);
  }
  if (response.ok) return response;
  const text = await response.text();
  let reason = text;
  try {
    reason = JSON.parse(text).error;
  } catch { /* not of this program */ }
  throw new ServerError(reason || `the program answers ${response.status}`, response.status);
}

async function sendJson(path, method, values) {
  const body = values === undefined ? {} : { body: JSON.stringify(values), headers: { "Content-Type": "application/json" } };
  return (await send(path, { method, ...body })).json();
}

const address = (path) => `/api/${token}${path}`;

/** The state of this tab's session; a new session if there is none any more. */
export async function begin() {
  if (token) {
    try {
      return await sendJson(address(""), "GET");
    } catch (error) {
      if (error.status !== 404) throw error;
    }
  }
  const state = await sendJson("/api/sessions", "POST");
  token = state.session;
  sessionStorage.setItem(KEY, token);
  return state;
}

export const upload = async (file) =>
  (await send(address(`/images?name=${encodeURIComponent(file.name)}`), { method: "POST", body: file })).json();
export const openExamples = () => sendJson(address("/examples"), "POST");
export const removeImage = (image) => sendJson(address(`/images/${image}`), "DELETE");
export const imageAddress = (image, size) => address(`/images/${image}/${size}`);
export const addCategory = () => sendJson(address("/categories"), "POST", {});
export const changeCategory = (category, values) => sendJson(address(`/categories/${category}`), "PATCH", values);
export const removeCategory = (category) => sendJson(address(`/categories/${category}`), "DELETE");
export const addReference = (category, image, box) =>
  sendJson(address(`/categories/${category}/references`), "POST", { image, box });
export const removeReference = (category, reference) =>
  sendJson(address(`/categories/${category}/references/${reference}`), "DELETE");
export const cropAddress = (category, reference) => address(`/categories/${category}/references/${reference}`);
export const findObjects = (category, image) => sendJson(address(`/categories/${category}/finds/${image}`), "POST");

/** Download a file of this session. */
export async function download(kind) {
  const response = await send(address(`/export/${kind}`));
  const name = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition"))[1];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
