"""Proxies before a server, which answer, cut or refuse what a test wants them to."""

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy(ThreadingHTTPServer):
    """Hands requests on to the server at an address, unless interfere(handler, body) says otherwise.

    None: handed on. (status, bytes): answered so. "cut": the answer breaks off. "down": the connection is closed.
    """

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, backend, interfere):
        self.backend, self.interfere, self.lock = backend.split("//")[1], interfere, threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *_):
        pass

    def close(self):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def hand_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            answer = self.server.interfere(self, body)
        if answer == "down":
            self.close_connection = True
            return
        if isinstance(answer, tuple):
            status, content, headers = *answer, []
        else:
            connection = http.client.HTTPConnection(self.server.backend)
            sent = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.command, self.path, body, sent)
            response = connection.getresponse()
            status, headers, content = response.status, response.getheaders(), response.read()
            connection.close()
        self.send_response_only(status)
        for name, value in headers:
            named = name.lower()
            if named not in ("connection", "transfer-encoding") and (
                named != "content-length" or self.command == "HEAD"
            ):
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if answer == "cut" else content)
        self.close_connection = answer == "cut"

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = hand_on

    def log_message(self, *_):
        pass


class Api(Proxy):
    """Before moto; answers[operation](its parameters) may answer instead with (status, {…}).

    asked: [(operation, its parameters)]. Only some services name operations in a header: EMR, Glue, pricing, quotas.
    """

    def __init__(self, target):
        self.answers, self.asked = {}, []
        super().__init__(target, self.answer)

    def answer(self, request, body):
        operation = request.headers.get("X-Amz-Target", "").split(".")[-1]
        if not operation:
            return None
        self.asked.append((operation, json.loads(body)))
        answer = self.answers.get(operation, lambda _: None)(json.loads(body))
        return answer and (answer[0], json.dumps(answer[1]).encode())

    def parameters(self, operation):
        return [parameters for name, parameters in self.asked if name == operation]
