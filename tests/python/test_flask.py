"""What is particular to the paywall of Flask."""

import functools
import io
from pathlib import Path

import pytest
from flask import Blueprint, Flask, Response, abort, request, send_file
from flask.views import MethodView
from flask_cors import CORS
from paid import Reply, ask_wsgi
from support import ROOT, fund, new_address, run_python, until
from werkzeug.test import EnvironBuilder, run_wsgi_app

from agirails import ACTPClient, State
from agirails.flask import CallPayment, Paywall


@pytest.fixture
def provider(tmp_path: Path) -> ACTPClient:
    return ACTPClient(requester_address=new_address(), state_directory=tmp_path)


@pytest.fixture
def pay(provider: ACTPClient, tmp_path: Path):
    """A paid request without signature."""
    consumer = ACTPClient(requester_address=new_address(), state_directory=tmp_path)

    def pay(app, method: str, target: str, body: bytes = b"", tx_id=None, **headers) -> Reply:
        tx_id = tx_id or fund(consumer, provider.address)
        return ask_wsgi(app, method, target, {"X-AGIRAILS-TX-ID": tx_id, **headers}, body)

    pay.fund = functools.partial(fund, consumer, provider.address)
    pay.consumer = consumer
    return pay


@pytest.fixture
def app() -> Flask:
    return Flask(__name__)


def test_an_application_may_come_later_than_its_paywall(app, provider, pay):
    paywall = Paywall(provider)
    api = Blueprint("api", __name__, url_prefix="/v2")

    @api.get("/data")
    @paywall.charge("0.10")
    def data():
        return "paid"

    app.register_blueprint(api)
    paywall.init_app(app)
    assert ask_wsgi(app, "GET", "/v2/data", {}, b"").status == 402
    assert pay(app, "GET", "/v2/data").body == b"paid"
    routes = ask_wsgi(app, "GET", "/api/pricing", {}, b"").json["routes"]
    assert [route["route"] for route in routes] == ["GET /v2/data"]


def test_an_own_page_keeps_what_its_blueprint_puts_around_it(app, provider):
    Paywall(provider, app=app)
    inside = Blueprint("inside", __name__)

    @inside.before_request
    def who():
        if request.headers.get("X-Secret") != "open":
            abort(401)

    @inside.after_request
    def sign(response):
        response.headers["X-Endpoint"] = request.endpoint
        return response

    @inside.get("/metrics")
    def metrics():
        return "own metrics"

    app.register_blueprint(inside)
    assert ask_wsgi(app, "GET", "/metrics", {}, b"").status == 401
    shown = ask_wsgi(app, "GET", "/metrics", {"X-Secret": "open"}, b"")
    assert (shown.status, shown.body) == (200, b"own metrics")
    assert shown.headers["x-endpoint"] == "inside.metrics"
    assert ask_wsgi(app, "GET", "/health", {}, b"").status == 200


def test_a_view_may_read_its_body_as_a_stream(app, provider, pay):
    paywall = Paywall(provider, app=app)

    @app.post("/upload")
    @paywall.charge("0.10")
    def upload():
        first = request.stream.read(5)
        return first + b"|" + request.environ["wsgi.input"].read()

    @app.post("/form")
    @paywall.charge("0.10")
    def form():
        return request.form["name"] + request.get_data(as_text=True)

    assert pay(app, "POST", "/upload", b"hello world").body == b"hello| world"
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert pay(app, "POST", "/form", b"name=ada", **kind).body == b"adaname=ada"


def test_a_charge_within_a_charge_is_paid_once(app, provider, pay):
    paywall = Paywall(provider, app=app)

    @app.get("/inner")
    @paywall.charge("0.07")
    def inner():
        return f"inner for {paywall.payment.price}"

    @app.get("/outer")
    @paywall.charge("0.10")
    def outer():
        return inner()

    @app.get("/broken")
    @paywall.charge("0.10")
    def broken():
        raise KeyError

    @app.errorhandler(KeyError)
    def instead(error):
        return inner()

    assert pay(app, "GET", "/outer").body == b"inner for 0.10"
    # What answers in place of a view that raised is paid for like any other.
    tx_id = pay.fund()
    assert pay(app, "GET", "/broken", tx_id=tx_id).body == b"inner for 0.10"
    until(lambda: provider.advanced.get_transaction(tx_id).state == State.DELIVERED)


def test_an_application_has_one_paywalls_free_routes(app, provider):
    Paywall(provider, app=app)
    with pytest.raises(RuntimeError, match="free_routes=False"):
        Paywall(provider, app=app)
    Paywall(provider, app=app, free_routes=False)


def test_methods_of_a_view_class_have_their_own_prices(app, provider, pay):
    paywall = Paywall(provider, app=app)

    class Items(MethodView):
        def get(self, number):
            return "free"

        @paywall.charge("0.10")
        def post(self, number):
            return f"{number} for {paywall.payment.price}"

        @paywall.charge("0.07")
        async def put(self, number):
            return "put"

    class All(MethodView):
        decorators = [paywall.charge("0.10", name="everything")]

        def get(self):
            return "all"

    app.add_url_rule("/items/<int:number>", view_func=Items.as_view("items"))
    app.add_url_rule("/all", view_func=All.as_view("all"))
    assert ask_wsgi(app, "GET", "/items/1", {}, b"").body == b"free"
    assert ask_wsgi(app, "POST", "/items/1", {}, b"").status == 402
    assert pay(app, "POST", "/items/7").body == b"7 for 0.10"
    assert pay(app, "PUT", "/items/7").body == b"put"
    assert ask_wsgi(app, "GET", "/all", {}, b"").status == 402
    assert pay(app, "GET", "/all").body == b"all"
    routes = ask_wsgi(app, "GET", "/api/pricing", {}, b"").json["routes"]
    assert {route["route"] for route in routes} == {
        "everything",
        "POST /items/<int:number>",
        "PUT /items/<int:number>",
    }


def test_a_class_has_no_price(provider):
    with pytest.raises(TypeError, match="put it on the methods of Items"):

        @Paywall(provider).charge("0.10")
        class Items(MethodView): ...


@pytest.mark.parametrize("kind", ["text", "bytes", "tuple", "dict", "list", "response", "file"])
def test_a_view_returns_whatever_flask_takes(app, provider, pay, kind):
    paywall = Paywall(provider, app=app)
    closed = []

    def response():
        made = Response("text", 201, {"X-Own": "ü"}, mimetype="text/plain")
        made.headers.add("Set-Cookie", "a=1")
        made.headers.add("Set-Cookie", "b=2")
        made.call_on_close(lambda: closed.append(True))
        return made

    kinds = {
        "text": lambda: "text",
        "bytes": lambda: b"\xff\x00",
        "tuple": lambda: ("text", 202, {"X-Own": "1", "Connection": "close"}),
        "dict": lambda: {"a": 1},
        "list": lambda: [1, 2],
        "response": response,
        "file": lambda: send_file(io.BytesIO(b"file" * 10_000), mimetype="image/png"),
    }

    @app.get("/")
    @paywall.charge("0.10")
    def view():
        return kinds[kind]()

    bare = Flask("bare")
    bare.add_url_rule("/", view_func=kinds[kind])
    tx_id = pay.fund()
    paid, again = pay(app, "GET", "/", tx_id=tx_id), pay(app, "GET", "/", tx_id=tx_id)
    free = ask_wsgi(bare, "GET", "/", {}, b"")
    assert (paid.status, paid.body) == (again.status, again.body) == (free.status, free.body)
    for name in ("content-type", "content-length", "x-own", "set-cookie"):
        assert paid.headers.get(name) == again.headers.get(name) == free.headers.get(name)
    assert again.headers["x-agirails-replay"] == "1"
    if kind == "response":
        assert closed == [True, True]


def test_options_does_not_run_the_view_and_head_is_a_get_without_its_body(app, provider, pay):
    paywall = Paywall(provider, app=app)

    @app.route("/", methods=["GET", "OPTIONS"])
    @paywall.charge("0.10")
    def view():
        return (str(number) for number in range(3)), {"Content-Type": "text/plain"}

    class All(MethodView):
        decorators = [paywall.charge("0.10")]

        def get(self):
            return "paid"

        def options(self):
            return "paid"

    app.add_url_rule("/all", view_func=All.as_view("all"))
    for path in ("/", "/all"):
        reply = ask_wsgi(app, "OPTIONS", path, {}, b"")
        assert (reply.status, reply.body) == (204, b"")
        assert {"GET", "HEAD", "OPTIONS"} <= set(reply.headers["allow"].split(", "))
    assert ask_wsgi(app, "HEAD", "/", {}, b"").status == 402
    head, whole = pay(app, "HEAD", "/"), pay(app, "GET", "/")
    assert (head.status, head.body, whole.body) == (200, b"", b"012")


def test_every_answer_has_the_applications_cors_headers(app, provider, pay):
    origins = ["https://one.example", "https://two.example"]
    paywall = Paywall(provider, app=app)
    CORS(app, origins=origins)
    app.add_url_rule("/", view_func=paywall.charge("0.10")(lambda: "paid"))
    payment = {"X-AGIRAILS-TX-ID": pay.fund()}
    for status, headers in (
        (402, {}),
        (400, {"X-AGIRAILS-TX-ID": "0x12"}),
        (200, payment),
        (200, payment),
    ):
        for origin in origins:
            reply = ask_wsgi(app, "GET", "/", {"Origin": origin, **headers}, b"")
            assert reply.status == status
            assert reply.headers["access-control-allow-origin"] == origin
            assert "origin" in reply.headers["vary"].lower()
            exposed = reply.headers["access-control-expose-headers"].lower()
            assert ("x-agirails-receipt" if status == 200 else "payment-required") in exposed


def test_names_that_callers_make_up_are_no_rows(app, provider):
    paywall = Paywall(provider, app=app)

    @app.errorhandler(404)
    @paywall.charge("0.10")
    def missing(error):
        return "a page of its own"

    for number in range(20):
        assert ask_wsgi(app, "GET", f"/made/up/{number}", {}, b"").status == 402
        assert ask_wsgi(app, f"VERB{number}", f"/made/up/{number}", {}, b"").status == 402
    routes = ask_wsgi(app, "GET", "/api/pricing", {}, b"").json["routes"]
    assert len(routes) == 1 and "missing" in routes[0]["route"]
    assert b"/made/up" not in ask_wsgi(app, "GET", "/metrics", {}, b"").body


def test_a_dearer_view_inside_asks_for_the_difference(app, provider, pay):
    paywall = Paywall(provider, app=app)
    runs = []

    @app.get("/dear")
    @paywall.charge("5.00")
    def dear():
        runs.append(paywall.payment.price)
        return "dear"

    @app.get("/cheap")
    @paywall.charge("0.10")
    def cheap():
        return f"{dear()} for {paywall.payment.price}"

    small, enough = pay.fund(), pay.fund(5_000_000)
    reply = pay(app, "GET", "/cheap", tx_id=small)
    assert (reply.status, reply.json["required"]) == (402, "5.00")
    assert provider.advanced.get_transaction(small).state is State.COMMITTED
    assert pay(app, "GET", "/cheap", tx_id=enough).body == b"dear for 5.00"
    assert runs == [5_000_000]


def test_a_body_whose_end_the_server_does_not_tell_is_refused(app, provider, pay):
    paywall = Paywall(provider, app=app)
    app.add_url_rule("/", view_func=paywall.charge("0.10")(lambda: "paid"), methods=["POST"])
    environ = EnvironBuilder("/", method="POST", data=b"body").get_environ()
    del environ["CONTENT_LENGTH"]
    environ |= {"HTTP_TRANSFER_ENCODING": "chunked", "HTTP_X_AGIRAILS_TX_ID": pay.fund()}
    assert run_wsgi_app(app.wsgi_app, environ, buffered=True)[1].startswith("411")
    environ |= {"wsgi.input_terminated": True, "wsgi.input": io.BytesIO(b"body")}
    assert run_wsgi_app(app.wsgi_app, environ, buffered=True)[1].startswith("200")


def test_the_applications_own_handlers_answer_what_a_view_raises(app, provider, pay):
    paywall = Paywall(provider, app=app)

    @app.post("/")
    @paywall.charge("0.10")
    def view():
        if request.get_data() == b"teapot":
            abort(418)
        raise KeyError("inside")

    app.register_error_handler(418, lambda _: ({"own": "teapot"}, 418))
    app.register_error_handler(KeyError, lambda _: ({"own": "key"}, 500))
    tx_id = pay.fund()
    teapot, key = (pay(app, "POST", "/", body, tx_id) for body in (b"teapot", b"key"))
    assert (teapot.status, teapot.json) == (418, {"own": "teapot"})
    # The other body is another request, and the transaction is the first one's.
    assert (key.status, key.json["error"]) == (409, "Transaction Already Used")
    assert pay(app, "POST", "/", b"key").json == {"own": "key"}


def test_json_and_forms_are_read_by_the_view_as_ever(app, provider, pay):
    paywall = Paywall(provider, app=app)

    @app.post("/")
    @paywall.charge("0.10")
    def view():
        return {"json": request.get_json(silent=True), "form": dict(request.form)}

    kinds = {"json": ("application/json", b'{"a":1}')}
    kinds["form"] = ("application/x-www-form-urlencoded", b"a=1&b=2")
    reply = pay(app, "POST", "/", kinds["json"][1], **{"Content-Type": kinds["json"][0]})
    assert reply.json == {"json": {"a": 1}, "form": {}}
    reply = pay(app, "POST", "/", kinds["form"][1], **{"Content-Type": kinds["form"][0]})
    assert reply.json == {"json": None, "form": {"a": "1", "b": "2"}}


def test_the_applications_own_limit_holds_too(app, provider, pay):
    app.config["MAX_CONTENT_LENGTH"] = 5
    paywall = Paywall(provider, app=app)
    app.add_url_rule("/", view_func=paywall.charge("0.10")(lambda: "paid"), methods=["POST"])
    assert pay(app, "POST", "/", b"123456").status == 413
    assert pay(app, "POST", "/", b"12345").status == 200


def test_an_own_route_under_a_free_path_answers(app, provider):
    Paywall(provider, app=app)

    @app.get("/health")
    def health():
        return "my own"

    assert ask_wsgi(app, "GET", "/health", {}, b"").body == b"my own"
    assert ask_wsgi(app, "GET", "/metrics", {}, b"").status == 200


@pytest.mark.parametrize(
    ("environ", "target"),
    [
        ({"RAW_URI": "/a%2Fb?x=%41"}, "/a%2Fb?x=%41"),
        ({"RAW_URI": None}, "/a%2Fb?x=%41"),
        ({"RAW_URI": "http://host:1/a%2Fb?x=%41"}, "/a%2Fb?x=%41"),
        ({"RAW_URI": "http://host"}, "/"),
        ({"RAW_URI": None, "REQUEST_URI": None}, "/a/b?x=%41"),
        ({"RAW_URI": None, "REQUEST_URI": None, "SCRIPT_NAME": "/pre fix"}, "/a/b?x=%41"),
    ],
)
def test_the_target_is_what_stood_in_the_request_line(app, provider, monkeypatch, environ, target):
    paywall = Paywall(provider, app=app)
    app.add_url_rule("/<path:all>", view_func=paywall.charge("0.10")(lambda all: "paid"))
    seen = []

    class Spy:
        def __getattr__(self, name):
            return getattr(core, name)

        def exchange(self, charge, method, target, *rest, **options):
            seen.append((target, rest[1]))
            return core.exchange(charge, method, target, *rest, **options)

    core, paywall._core = paywall._core, Spy()
    given = EnvironBuilder("/a%2Fb?x=%41").get_environ()
    given.update(environ)
    run_wsgi_app(app.wsgi_app, {k: v for k, v in given.items() if v is not None}, buffered=True)
    assert seen == [(target, environ.get("SCRIPT_NAME", "").replace(" ", "%20"))]


def test_below_a_prefix_pages_stay_where_they_are(app, provider):
    Paywall(provider, app=app)
    environ = EnvironBuilder("/health", base_url="http://host/prefix").get_environ()
    environ["RAW_URI"] = "/prefix/health"
    _, status, _ = run_wsgi_app(app.wsgi_app, environ, buffered=True)
    assert status == "200 OK"


def test_a_consumer_that_goes_away_leaves_a_stream_that_is_served_to_its_end(app, provider, pay):
    paywall = Paywall(provider, app=app)
    made = []

    @app.get("/")
    @paywall.charge("0.10")
    def view():
        def generated():
            for number in range(10):
                assert isinstance(paywall.payment, CallPayment)
                made.append(number)
                yield str(number)

        return generated()

    tx_id = pay.fund()
    environ = EnvironBuilder("/", headers={"X-AGIRAILS-TX-ID": tx_id}).get_environ()
    pieces, _, _ = run_wsgi_app(app.wsgi_app, environ)
    assert next(iter(pieces)) == b"0"
    assert len(made) < 3
    pieces.close()
    assert made == list(range(10))
    assert pay(app, "GET", "/", tx_id=tx_id).body == b"0123456789"


def test_a_stream_that_cannot_be_kept_breaks_off(app, provider, pay):
    paywall = Paywall(provider, app=app, lease_seconds=1, closing_seconds=60)

    @app.get("/")
    @paywall.charge("0.10")
    def view():
        def generated():
            yield "begun"
            # The deadline passes meanwhile, and the money goes back.
            provider.mock.advance_time(3_700)
            until(lambda: provider.advanced.get_transaction(tx_id).state is State.CANCELLED)
            yield "ended"

        return generated()

    tx_id = pay.fund()
    with pytest.raises(Exception, match="the answer could not be kept"):
        pay(app, "GET", "/", tx_id=tx_id)


def test_the_example_serves_who_pays(tmp_path):
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]; import flask_provider; "
        "print(flask_provider.app.test_client().post('/api/generate').status_code)"
    )
    env = {"PROVIDER_ADDRESS": new_address(), "ACTP_STATE_DIR": str(tmp_path)}
    done = run_python("-W", "error", "-c", script, ROOT / "examples", cwd=tmp_path, **env)
    assert done.stdout.splitlines() == ["402"], done.stderr


def test_the_package_imports_no_framework():
    script = "import sys, agirails; assert not {'flask', 'werkzeug', 'starlette', 'fastapi'} & set(sys.modules)"
    assert run_python("-c", script).returncode == 0
