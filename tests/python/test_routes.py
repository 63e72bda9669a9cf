"""Which priced route a path means, however it is spelled."""

import pytest

from agirails._routes import Routes

ROUTES = Routes(
    {
        "GET /api/items/{id}": "item",
        "GET /api/premium": "premium",
        "POST /api/premium": None,
        "GET /files/{name:path}": "file",
        "GET /": "root",
    }
)


def meant(*paths: str, method: str = "GET") -> list[object]:
    return [route.value for route in ROUTES.find(paths) if route.method == method]


@pytest.mark.parametrize(
    "path",
    [
        "/api/premium",
        "/api/premium/",
        "/api/premium//",
        "//api/premium",
        "/api//premium",
        "/API/Premium",
        "/api/%70remium",
        "/api%2Fpremium",
        "/api%252Fpremium",
        "/api/premium%2F",
        "/api/pr%65mium%2f",
        "/api/./premium",
        "/api/x/../premium",
        "/api/x/%2e%2e/premium",
        "/../api/premium",
        "/api/premium;v=1",
        "/api;v=1/premium",
        "/api/premium%3Fx=1",
        "/api/premium%23x",
        "/api/premium%20",
        "/api/premium%00",
        "/api%5Cpremium",
        "/api\\premium",
    ],
)
def test_a_priced_path_is_priced_in_every_spelling(path):
    assert meant(path) == ["premium"]
    assert meant(path, method="POST") == [None]


@pytest.mark.parametrize(
    "path",
    [
        "/api/items/x%2Fy",
        "/api/items/%2F",
        "/api/items/x%252Fy",
        "/api/items/..%2Fx",
        "/api/items/x;v=1",
    ]
    + ["/api/items/%", "/api/items/%c0", "/api/items/x%00y", "/api/items/;v=1", "/api/items/ü"],
)
def test_a_parameter_is_one_segment_as_it_came_or_decoded(path):
    assert "item" in meant(path)


@pytest.mark.parametrize(
    "path", ["/api/items", "/api/items/x/y", "/api", "/api/premium2", "/other"]
)
def test_other_paths_are_free(path):
    assert ROUTES.find([path]) == []


def test_a_path_parameter_takes_many_segments():
    for path in ("/files/a", "/files/a/b", "/FILES/a%2Fb/", "/files//a"):
        assert meant(path) == ["file"]


def test_a_path_that_can_be_read_in_two_ways_means_both_routes():
    routes = Routes({"GET /a/{x}": "one", "GET /a/{x}/{y}": "two"})
    assert {route.value for route in routes.find(["/a/b%2Fc"])} == {"one", "two"}
    assert {route.value for route in routes.find(["/a/b%2Fc", "/a/b/c"])} == {"one", "two"}


def test_the_first_of_two_routes_is_meant():
    routes = Routes({"GET /a/new": "new", "GET /a/{x}": "any"})
    assert [route.value for route in routes.find(["/a/new"])] == ["new"]


def test_the_root_has_a_price_of_its_own():
    assert meant("/") == meant("//") == meant("/./") == ["root"]


@pytest.mark.parametrize("route", ["/api/generate", "POST", "POST api", "", "P0ST /"])
def test_a_route_must_be_a_method_and_a_path(route):
    with pytest.raises(ValueError, match="must be a method and a path"):
        Routes({route: "0.10"})
