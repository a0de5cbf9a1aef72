//! A real browser without a window (Debian's `chromium-headless-shell`), driven over the DevTools protocol: JSON that ends with
//! a zero byte, over two pipes.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// An answer that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with one open page.
pub struct Browser {
    process: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    events: VecDeque<Value>,
    session: Value,
    last: u64,
    _profile: TempDir,
}

impl Browser {
    pub fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        // The protocol is spoken on the descriptors 3 and 4.
        let mut process = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh", "chromium-headless-shell"])
            .args(["--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--disable-background-networking", "--no-first-run", "--hide-scrollbars", "--lang=en-GB"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        let (send, messages) = channel();
        std::thread::spawn(move || {
            loop {
                let mut message = Vec::new();
                match out.read_until(0, &mut message) {
                    Ok(n) if n > 1 => message.pop(),
                    _ => return,
                };
                if send.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
            }
        });
        let commands = process.stdin.take().unwrap();
        let mut browser = Self {
            process,
            commands,
            messages,
            events: VecDeque::new(),
            session: Value::Null,
            last: 0,
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        browser.session = attached["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.size(1200, 900);
        browser
    }

    /// One command of the protocol, with its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut command = json!({"id": self.last, "method": method, "params": params});
        if !self.session.is_null() {
            command["sessionId"] = self.session.clone();
        }
        let sent = self.commands.write_all(format!("{command}\0").as_bytes());
        assert!(sent.is_ok(), "chromium-headless-shell does not run: is it installed?");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            let message = message.unwrap_or_else(|e| {
                panic!("no answer to {command} ({e}); is chromium-headless-shell installed? {:?}", self.complaints())
            });
            match message["id"].as_u64() {
                Some(id) if id == self.last => {
                    assert!(message["error"].is_null(), "{command}: {message}");
                    return message["result"].clone();
                }
                Some(_) => {}
                None => self.events.push_back(message),
            }
        }
    }

    /// Opens a page and waits until it is loaded.
    pub fn open(&mut self, url: &str) {
        let loaded = |browser: &Self| browser.count("Page.loadEventFired");
        let before = loaded(self);
        let went = self.call("Page.navigate", json!({"url": url}));
        assert!(went["errorText"].is_null(), "{url}: {went}");
        while loaded(self) == before {
            let message = self.messages.recv_timeout(PATIENCE).expect("the page is loaded");
            self.events.push_back(message);
        }
    }

    /// The value of an expression, or of the promise that it is.
    pub fn eval(&mut self, expression: &str) -> Value {
        let params =
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true});
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until a condition of the page is true.
    pub fn wait_for(&mut self, condition: &str) {
        let wait = format!(
            "new Promise((done) => {{ const look = () => ({condition}) ? done(true) : setTimeout(look, 20); look(); }})"
        );
        self.eval(&wait);
    }

    /// The text that a reader sees of an element.
    pub fn text(&mut self, selector: &str) -> String {
        let text = self.eval(&format!("document.querySelector({selector:?})?.innerText ?? 'nothing is there'"));
        text.as_str().unwrap().to_owned()
    }

    pub fn size(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// `light` or `dark`.
    pub fn prefer(&mut self, scheme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Pages opened from now on run no scripts, or do again.
    pub fn scripts(&mut self, run: bool) {
        self.call("Emulation.setScriptExecutionDisabled", json!({"value": !run}));
    }

    pub fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let code = if key == "Tab" { 9 } else { 13 };
            let text = if key == "Enter" && kind == "keyDown" { "\r" } else { "" };
            let event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// For people to look at: into the folder that `PAGE_SCREENSHOTS` names, if it does.
    pub fn screenshot(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("PAGE_SCREENSHOTS") else { return };
        let height = self.eval("document.documentElement.scrollHeight").as_u64().unwrap();
        let width = self.eval("innerWidth").as_u64().unwrap();
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let shot = self.call("Page.captureScreenshot", json!({"captureBeyondViewport": true, "clip": clip}));
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), base64(shot["data"].as_str().unwrap())).unwrap();
    }

    /// Errors and warnings in the console, and exceptions.
    pub fn complaints(&self) -> Vec<String> {
        let complains = |event: &&Value| match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => true,
            "Runtime.consoleAPICalled" => {
                ["error", "warning", "assert"].contains(&event["params"]["type"].as_str().unwrap())
            }
            "Log.entryAdded" => ["error", "warning"].contains(&event["params"]["entry"]["level"].as_str().unwrap()),
            _ => false,
        };
        self.events.iter().filter(complains).map(ToString::to_string).collect()
    }

    /// Every URL that was asked for.
    pub fn requests(&self) -> Vec<String> {
        let sent = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        sent.map(|event| event["params"]["request"]["url"].as_str().unwrap().to_owned()).collect()
    }

    fn count(&self, method: &str) -> usize {
        self.events.iter().filter(|event| event["method"] == method).count()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn base64(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut held, mut out) = (0u32, 0, Vec::new());
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        bits = bits << 6 | LETTERS.iter().position(|known| *known == letter).expect("a letter of base64") as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}
