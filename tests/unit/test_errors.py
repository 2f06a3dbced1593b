import inspect

import pytest

from storage import errors

CLASSES = [getattr(errors, name) for name in errors.__all__]


def test_the_drawn_tree_is_the_real_tree() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "──" in line or line.strip() == "SanglocError"]
    path: list[str] = []
    parents = {}
    for line in drawn:
        bare = line.lstrip(" │├└─")
        depth = (len(line) - len(bare) - 4) // 4
        name = bare.split()[0]
        path[depth:] = [name]
        parents[name] = path[depth - 1] if depth else "Exception"
    assert parents == {each.__name__: each.__base__.__name__ for each in CLASSES}


def test_all_names_every_error_of_the_module() -> None:
    found = [name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)]
    assert sorted(found) == sorted(errors.__all__)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_docstring_is_the_default_message(kind: type[errors.SanglocError]) -> None:
    assert str(kind()) == inspect.getdoc(kind)
    assert str(kind("what happened")) == "what happened"
