// A live page: it asks its server for newer data every few seconds, and keeps all that was chosen.

const SECONDS_RUNNING = 3;
const SECONDS_WAITING = 5;

async function follow() {
  let version = "";
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 1000 * (data.isRunning ? SECONDS_RUNNING : SECONDS_WAITING)));
    if (document.hidden) continue;
    try {
      const response = await fetch("api/data", {headers: version ? {"If-None-Match": version} : {}, cache: "no-store"});
      if (response.status === 200) {
        version = response.headers.get("ETag");
        load(await response.text());
        draw();
      } else if (response.status !== 304) {
        throw new Error(await response.text());
      }
      byId("status").textContent = data.isRunning ? "Updated while runs are running." : "No run is running; new ones will appear.";
    } catch (error) {
      byId("status").textContent = error instanceof TypeError
        ? "The server has ended: this is what it sent last." : `The server does not answer: ${error.message}`;
    }
  }
}

if (document.documentElement.dataset.live === "true") follow();
