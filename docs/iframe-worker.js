// Pages that are opened from the disk may not start workers: this one runs the worker of the search in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      const inner = this.frame.contentWindow
      inner.postMessage = message => this.deliver(message)
      inner.importScripts = (...urls) => urls.reduce((done, next) => done.then(() => load(inner, next)), Promise.resolve())
      inner.addEventListener = (kind, listener) => kind === "message" && (this.listener = listener)
      this.ready = load(inner, url)
    }

    deliver(data) {
      const event = new MessageEvent("message", { data })
      this.dispatchEvent(event)
      if (this.onmessage) this.onmessage(event)
    }

    postMessage(data) {
      this.ready.then(() => {
        const listener = this.listener || this.frame.contentWindow.onmessage
        if (listener) listener(new MessageEvent("message", { data }))
      })
    }

    terminate() {
      this.frame.remove()
    }
  }

  const load = (inner, url) => new Promise((done, failed) => {
    const script = inner.document.createElement("script")
    script.src = new URL(url, location.href)
    script.onload = done
    script.onerror = failed
    inner.document.body.appendChild(script)
  })
}
