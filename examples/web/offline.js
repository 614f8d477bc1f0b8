// A service worker: what was read once is read again where there is no network.

const CACHE = "ask-a-text";

self.addEventListener("install", (event) => {
  self.skipWaiting();
  const page = ["./", "page.css", "page.js", "worker.js"];
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(page)));
});
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && new URL(request.url).origin === location.origin) event.respondWith(answer(event));
});

async function answer(event) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(event.request);
    if (response.ok) event.waitUntil(cache.put(event.request, response.clone()));
    return response;
  } catch (error) {
    const kept = await cache.match(event.request, { ignoreSearch: true });
    if (kept) return kept;
    throw error;
  }
}
