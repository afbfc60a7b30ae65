// The browser of rollouts: a search that shows the newest first, a page at a time, and one rollout as a whole.
"use strict";

const REFRESH_ROLLOUTS_MS = 5000;
const TYPING_MS = 400;
const NARROW_PIXELS = 700;

const Rollouts = {
  next: "",
  pages: 1,
  asked: 0,

  start() {
    Rollouts.showForm(Dom.byId("search"));
    Dom.byId("older").addEventListener("click", () => Rollouts.search(true).catch(Live.tell));
    window.addEventListener("hashchange", () => Rollouts.openHash());
    Dom.byId("rollout").addEventListener("close", () =>
      window.history.replaceState(null, "", window.location.pathname),
    );
    Dom.byId("rollout").addEventListener("click", (event) => {
      if (event.target === event.currentTarget) event.currentTarget.close();
    });
    // Training has rollouts of all sources side by side; a round of evaluation has them one after another.
    if (Live.head.step.num_steps) Dom.byId("search").elements.split.value = "train";
    Rollouts.openHash();
    Live.loop(REFRESH_ROLLOUTS_MS, Rollouts.refresh);
  },

  showForm(form) {
    const select = (name, choices) =>
      Dom.el(
        "select",
        { name, "aria-label": name },
        choices.map(([value, words]) => Dom.el("option", { value }, words)),
      );
    const input = (name, words, more) => Dom.el("input", { name, placeholder: words, "aria-label": words, ...more });
    const reward = { inputmode: "decimal", size: 7 };
    const step = { inputmode: "numeric", size: 7 };
    const statuses = ["scored", "unscorable", "timeout", "error"].map((status) => [status, `with ${status}`]);
    Dom.show(
      form,
      select("source", [["", "all sources"], ...Theme.sources.map((name) => [name, name])]),
      select("split", [
        ["", "training and held-out"],
        ["train", "training"],
        ["eval", "held-out"],
      ]),
      select("status", [["judged", "with a verdict"], ["", "all"], ...statuses, ["waiting", "without a verdict"]]),
      Dom.el("span", { class: "range" }, input("min_reward", "reward from", reward), input("max_reward", "to", reward)),
      Dom.el("span", { class: "range" }, input("first_step", "step from", step), input("last_step", "to", step)),
      input("text", "text in prompt or answer", { type: "search", maxlength: 200 }),
      Dom.el(
        "label",
        {},
        input("one_each", "one of each group", { type: "checkbox", value: "1", checked: "" }),
        " one of each group",
      ),
    );
    const ask = () => Rollouts.search().catch(Rollouts.refuse);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => {
      window.clearTimeout(Rollouts.timer);
      Rollouts.timer = window.setTimeout(ask, TYPING_MS);
    });
  },

  /** Fill the form and search: what is not named is left open. */
  searchFor(wanted) {
    const form = Dom.byId("search");
    form.reset();
    for (const [name, value] of Object.entries(wanted)) form.elements[name].value = value;
    Dom.byId("rollouts").scrollIntoView();
    return Rollouts.search().catch(Rollouts.refuse);
  },

  query() {
    const values = [...new FormData(Dom.byId("search"))].filter(([, value]) => String(value).trim());
    const limit = window.innerWidth < NARROW_PIXELS ? 8 : 24;
    return new URLSearchParams([...values, ["limit", limit]]);
  },

  /** Newer ones come by themselves, unless somebody reads: a further page, the pointer on a card, an open rollout. */
  async refresh() {
    const isRead = Rollouts.pages > 1 || Dom.byId("gallery").matches(":hover") || Dom.byId("rollout").open;
    if (!isRead || !Rollouts.asked) await Rollouts.search().catch(Rollouts.refuse);
  },

  async search(isMore = false) {
    const place = Dom.byId("gallery");
    const query = Rollouts.query();
    if (isMore) query.set("cursor", Rollouts.next);
    Rollouts.asked += 1;
    const number = Rollouts.asked;
    const { rollouts, next, hint } = await Live.ask(`/api/rollouts?${query}`);
    if (number !== Rollouts.asked) return;
    Rollouts.pages = isMore ? Rollouts.pages + 1 : 1;
    Rollouts.next = next;
    Dom.byId("older").hidden = !next;
    Dom.byId("older").textContent = hint ? "search on" : "older rollouts";
    Rollouts.say(hint);
    const address = (sha256) => `/api/images/${sha256}`;
    if (isMore) Gallery.add(place, rollouts, address);
    else if (rollouts.length) Gallery.show(place, rollouts, address);
    else Dom.show(place, Dom.empty(Rollouts.nothing(query)));
  },

  nothing(query) {
    const isFiltered = [...query.keys()].some((key) => !["status", "limit", "one_each"].includes(key));
    if (isFiltered || !Live.status) return "No rollout is so.";
    return `No judged rollout yet: ${Status.waits(Live.status, ["producer", "verifier"])}.`;
  },

  refuse(error) {
    Rollouts.say(error.message);
  },

  say(words) {
    Dom.byId("search-hint").hidden = !words;
    Dom.byId("search-hint").textContent = words;
  },

  async openHash() {
    const match = /^#rollout=(.+)$/.exec(window.location.hash);
    if (!match) return;
    const dialog = Dom.byId("rollout");
    try {
      Dom.show(
        dialog,
        Verdicts.whole(await Live.ask(`/api/rollout?key=${encodeURIComponent(decodeURIComponent(match[1]))}`)),
      );
    } catch (error) {
      Dom.show(dialog, Verdicts.close(), Dom.empty(error.message));
    }
    if (!dialog.open) dialog.showModal();
  },
};
