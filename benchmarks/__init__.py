"""How fast portfree is, beside what people use instead: ``nox -s bench``."""
