// Hands what the server says of the layers to the page in the frame, and makes the frame as high as that page.
const frame = element.querySelector("iframe");
const show = () => props.value && frame.contentWindow.postMessage({ layers: props.value }, "*");
frame.addEventListener("load", show); // the traces may come first
watch("value", show);
window.addEventListener("message", (event) => {
  if (event.source === frame.contentWindow && event.data?.height) frame.style.height = `${event.data.height}px`;
});
