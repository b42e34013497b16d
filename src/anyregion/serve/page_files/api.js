// Calls of the service. Every error becomes one with the service's own words.

export class ServiceError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function call(method, path, body, headers = {}) {
  let response;
  try {
    response = await fetch(path, { method, body, headers });
  } catch {
    throw new ServiceError(0, "The service does not answer: is it still running?");
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => null);
    throw new ServiceError(response.status, answer?.error?.message ?? response.statusText);
  }
  return response;
}

const get = async (path) => (await call("GET", path)).json();
const post = async (path, value) =>
  (await call("POST", path, JSON.stringify(value), { "Content-Type": "application/json" })).json();
const ofImage = (image, what) => `/v1/project/images/${image}/${what}`;

export const status = () => get("/v1/project");
export const eventsSince = (seq) => get(`/v1/project/events?since=${seq}`);
export const sendEvents = (since, tab, events) => post("/v1/project/events", { since, tab, events });
export const words = async () => (await get("/v1/words")).words;
export const names = (image) => post(ofImage(image, "names"), {});
export const find = async (image) => (await post(ofImage(image, "find"), {})).regions;
export const masks = async (image) => (await post(ofImage(image, "masks"), {})).regions;
export const queue = async () => (await get("/v1/project/queue")).regions;
export const alike = async (image, region) =>
  (await post("/v1/project/alike", { image, region })).regions;
export const previewOf = (image, side) => `${ofImage(image, "file")}?side=${side}`;

export const addPhotograph = async (file) => {
  const headers = { "Content-Type": "application/octet-stream", "X-Name": encodeURIComponent(file.name) };
  return (await call("POST", "/v1/project/images", file, headers)).json();
};

export const exportLabels = async (format, masks, images) => {
  const headers = { "Content-Type": "application/json" };
  const body = JSON.stringify({ format, masks, images });
  return (await call("POST", "/v1/project/export", body, headers)).blob();
};
