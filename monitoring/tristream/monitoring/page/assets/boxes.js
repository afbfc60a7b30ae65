// An image with boxes on it: predicted ones in one colour, true ones dashed in another.
"use strict";

const GRID = 1000;
const SMALL_PIXELS = 256;
const SHOWN_PIXELS = [270, 180];

const Boxes = {
  /** The image of a rollout; `address` is where the browser finds it. */
  picture(rollout, address) {
    const image = Dom.el("img", { alt: `image of ${rollout.source}` });
    const frame = Dom.el("div", { class: "picture-frame" }, image);
    image.addEventListener("load", () => Boxes.onLoad(image, frame, rollout));
    image.addEventListener("error", () => frame.replaceChildren(Dom.el("span", { class: "muted" }, "image not found")));
    image.src = address;
    return Dom.el("div", { class: "picture" }, frame);
  },

  onLoad(image, frame, rollout) {
    const size = [image.naturalWidth, image.naturalHeight];
    if (Math.max(...size) <= SMALL_PIXELS) {
      image.classList.add("small");
      image.style.width = `${Math.round(size[0] * Math.min(SHOWN_PIXELS[0] / size[0], SHOWN_PIXELS[1] / size[1]))}px`;
    }
    const drawn = [
      ...rollout.predicted_boxes.map((one) =>
        Boxes.rectangle(one, "predicted", rollout.predicted_in_pixels ? size : null),
      ),
      ...rollout.true_boxes.map((one) => Boxes.rectangle(one, "truth", null)),
    ];
    if (drawn.length)
      frame.append(Dom.svg("svg", { viewBox: `0 0 ${GRID} ${GRID}`, preserveAspectRatio: "none" }, drawn));
  },

  /** A box on the 0..1000 grid; `size` is given for boxes in pixels. */
  rectangle({ box, label }, kind, size) {
    const [width, height] = size ?? [GRID, GRID];
    const place = (value, length) => Math.min(GRID, Math.max(0, (GRID * value) / length));
    const [left, right] = [place(box[0], width), place(box[2], width)];
    const [top, bottom] = [place(box[1], height), place(box[3], height)];
    const title = Dom.svg("title", {}, `${kind} ${label}`);
    return Dom.svg(
      "rect",
      {
        class: kind,
        x: Math.min(left, right),
        y: Math.min(top, bottom),
        width: Math.abs(right - left),
        height: Math.abs(bottom - top),
      },
      title,
    );
  },
};
