"""Costs against the published price list and plain fractions; the operator's price file."""

import itertools
import timeit
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest
from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice
from hypothesis import given, settings
from hypothesis import strategies as st

from app.llm.price_overrides import PriceFileError
from app.llm.pricing import PriceBook, Rates, UnknownModel
from app.llm.usage import Tokens, Usage

AT = date(2026, 11, 22)
BOOK = PriceBook.load()

# USD per million tokens (input, output, cache read, 5m write, 1h write), as published for AT.
LIST: dict[str, dict[str, tuple[str, ...]]] = {
    "claude-haiku-5-5": {
        "base": ("0.10", "0.50", "0.01", "0.125", "0.20"),
        "long": ("0.50", "2.50", "0.05", "0.625", "1.00"),
    },
    "claude-haiku-4-5": {"base": ("1", "5", "0.10", "1.25", "2")},
    "claude-sonnet-5-5": {"base": ("2", "10", "0.10", "2.50", "4")},
    "claude-sonnet-5": {"base": ("2", "10", "0.20", "2.50", "4")},
    "claude-sonnet-4-6": {"base": ("3", "15", "0.30", "3.75", "6")},
    "claude-opus-5-5": {
        "base": ("4", "20", "0.20", "5", "8"),
        "fast": ("8", "40", "0.40", "10", "16"),
    },
    "claude-opus-5": {
        "base": ("5", "25", "0.50", "6.25", "10"),
        "fast": ("10", "50", "1.00", "12.50", "20"),
    },
    "claude-opus-4-5": {"base": ("5", "25", "0.50", "6.25", "10")},
    "claude-fable-5-2": {
        "base": ("8", "40", "0.20", "10", "16"),
        "fast": ("16", "80", "0.40", "20", "32"),
    },
    "claude-fable-5-1": {"base": ("10", "50", "0.25", "12.50", "20")},
    "claude-mythos-5": {"base": ("10", "50", "1.00", "12.50", "20")},
    "claude-mythos-5-1": {"base": ("10", "50", "0.25", "12.50", "20")},
}
BEFORE_GEO_PREMIUM = {"claude-haiku-4-5", "claude-opus-4-5"}
METERS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
TIERS, GEOS, SPEEDS = ("standard", "priority", "batch"), ("global", "us"), ("standard", "fast")

tokens = st.builds(
    Tokens,
    input=st.integers(0, 130_000),
    output=st.integers(0, 130_000),
    cache_read=st.integers(0, 60_000),
    cache_write_5m=st.integers(0, 60_000),
    cache_write_1h=st.integers(0, 60_000),
)
usages = st.builds(
    Usage,
    parts=st.lists(st.tuples(st.sampled_from(sorted(LIST)), tokens), min_size=1, max_size=4).map(
        tuple
    ),
    web_searches=st.integers(0, 20),
    service_tier=st.sampled_from(TIERS),
    inference_geo=st.sampled_from(GEOS),
    speed=st.sampled_from(SPEEDS),
)


def usd_of_part(
    model: str,
    used: Tokens,
    usage: Usage,
    rows: Mapping[str, tuple[str, ...]],
    long_above: int = 100_000,
) -> Fraction:
    prompt = used.input + used.cache_read + used.cache_write_5m + used.cache_write_1h
    factor = Fraction(1)
    row = rows["long"] if "long" in rows and prompt > long_above else rows["base"]
    if usage.speed == "fast":
        row, factor = (rows["fast"], factor) if "fast" in rows else (row, Fraction(2))
    if usage.inference_geo == "us" and model not in BEFORE_GEO_PREMIUM:
        factor *= Fraction(11, 10)
    if usage.service_tier == "batch":
        factor /= 2
    counts = (used.input, used.output, used.cache_read, used.cache_write_5m, used.cache_write_1h)
    million = Fraction(1_000_000)
    return factor * sum(Fraction(rate) * n / million for rate, n in zip(row, counts, strict=True))


@settings(deadline=None)
@given(usages)
def test_cost_is_the_published_arithmetic_rounded_up_once(usage):
    """Every mix of meters, models, tier, geography, speed and batch, against plain fractions."""
    usd = sum(usd_of_part(model, used, usage, LIST[model]) for model, used in usage.parts)
    usd += usage.web_searches * Fraction("0.01")
    assert BOOK.cost(usage, AT).nano == ceil(usd * 10**9)


@pytest.mark.parametrize("model", LIST)
def test_every_combination_on_both_sides_of_long_context(model):
    """All sets of meters, tiers, geographies and speeds, one prompt token below, at and above the edge."""
    seen = 0
    for mask in itertools.product((False, True), repeat=5):
        # Odd sizes: halves and tenths of a nano-dollar must show.
        sizes = dict(zip(METERS, (0, 7_777, 11_111, 3_333, 1_237), strict=True))
        few = {meter: sizes[meter] for meter, used in zip(METERS, mask, strict=True) if used}
        cached = sum(tokens for meter, tokens in few.items() if meter != "output")
        prompts = (99_999, 100_000, 100_001) if mask[0] else (cached,)
        for prompt, tier, geo, speed in itertools.product(prompts, TIERS, GEOS, SPEEDS):
            used = Tokens(**few | {"input": prompt - cached})
            usage = Usage(((model, used),), 3, tier, geo, speed)
            usd = usd_of_part(model, used, usage, LIST[model]) + Fraction("0.03")
            assert BOOK.cost(usage, AT).nano == ceil(usd * 10**9), usage
            seen += 1
    assert seen == 16 * 12 * (3 + 1)


written_usd = st.integers(0, 20 * 10**9).map(lambda nano: str(Decimal(nano) / 10**9))
written_rates = st.tuples(*[written_usd] * 5)


@settings(deadline=None)
@given(data=st.data())
def test_the_operators_prices_are_charged_as_written(data, tmp_path_factory):
    """Any file: long context, fast mode and searches at its prices, against plain fractions."""
    parts = st.fixed_dictionaries(
        {"base": written_rates}, optional={"long": written_rates, "fast": written_rates}
    )
    rows = data.draw(parts)
    search = data.draw(st.none() | written_usd)
    long_above = data.draw(st.integers(1, 300_000))
    lines = ["[models.mine]", *_toml(rows["base"])]
    if "long" in rows:
        inside = [f"above_tokens = {long_above}", *_toml(rows["long"])]
        lines.append(f"long_context = {{ {', '.join(inside)} }}")
    if "fast" in rows:
        lines.append(f"fast = {{ {', '.join(_toml(rows['fast']))} }}")
    if search is not None:
        lines.append(f'web_search = "{search}"')
    book = PriceBook.load(price_file(tmp_path_factory.mktemp("prices"), "\n".join(lines)))
    for usage in data.draw(st.lists(usages, min_size=1, max_size=5)):
        mine = replace(usage, parts=tuple(("mine", used) for _, used in usage.parts))
        usd = sum(usd_of_part("mine", used, mine, rows, long_above) for _, used in mine.parts)
        usd += mine.web_searches * Fraction(search or "0.01")
        assert book.cost(mine, AT).nano == ceil(usd * 10**9)


def _toml(rates: tuple[str, ...]) -> list[str]:
    return [f'{meter} = "{usd}"' for meter, usd in zip(METERS, rates, strict=True)]


def test_searches_cost_what_the_answering_model_says(tmp_path):
    """Of several models in an answer, the last pass is the one that answered."""
    text = """
    [models]
    dear = { input = 0, output = 0, web_search = "0.05" }
    free = { input = 0, output = 0, web_search = 0 }
    usual = { input = 0, output = 0 }
    """
    book = PriceBook.load(price_file(tmp_path, text))

    def nano(*models: str) -> int:
        return book.cost(Usage(tuple((m, Tokens(1, 1)) for m in models), web_searches=2), AT).nano

    assert (nano("dear"), nano("free"), nano("usual")) == (100_000_000, 0, 20_000_000)
    assert nano("free", "usual", "dear") == nano("dear")
    assert nano("dear", "usual", "free") == 0
    assert nano("dear", "free", "claude-opus-5") > nano("usual")


def one(model: str, **meters: int) -> Usage:
    return Usage(((model, Tokens(**meters)),))


def test_the_edge_of_long_context():
    """Haiku 5.5: one more prompt token, cached or not, makes every token five times as dear."""
    below = one("claude-haiku-5-5", input=50_000, cache_read=50_000, output=1_000)
    above = one("claude-haiku-5-5", input=50_000, cache_read=50_001, output=1_000)
    assert BOOK.cost(below, AT).nano == 6_000_000
    assert BOOK.cost(above, AT).nano == 30_000_050


def test_a_line_names_its_price_rows():
    """Each row once, in order, with the version of the price list."""
    usage = Usage(
        (
            ("claude-haiku-4-5-20251001", Tokens(1)),
            ("claude-opus-5", Tokens(1)),
            ("claude-haiku-4-5", Tokens(1)),
        )
    )
    source, haiku, opus = BOOK.cost(usage, AT).price_row.replace("+", ":").split(":")[:3]
    assert source.startswith("genai-prices/")
    assert haiku == "claude-haiku-4-5"
    assert opus == source
    assert BOOK.cost(usage, AT).price_row == f"{source}:{haiku}+{source}:claude-opus-5"


def test_prices_have_dates():
    """Sonnet 4.6 had a long-context price until 2026-03-12, and none from the day after."""
    before = BOOK.row("claude-sonnet-4-6", date(2026, 3, 12))
    after = BOOK.row("claude-sonnet-4-6", date(2026, 3, 13))
    assert (before.long_above_tokens, before.valid_from) == (200_000, None)
    assert before.long == Rates(*[usd * 10**9 // 100 for usd in (600, 2250, 60, 750, 1200)])
    assert (after.long, after.valid_from) == (None, date(2026, 3, 13))
    assert before.rates == after.rates


def test_a_model_without_a_price_is_refused_with_help(tmp_path):
    """Never zero: the message names the model, and its example is a valid price file."""
    with pytest.raises(UnknownModel) as caught:
        BOOK.row('my "model"', AT)
    assert caught.value.model == 'my "model"'
    file = tmp_path / "prices.toml"
    file.write_text(str(caught.value).split("\n\n")[1], encoding="utf-8")
    assert PriceBook.load(file).row('my "model"', AT).rates.output == 5 * 10**9
    with pytest.raises(UnknownModel):
        BOOK.cost(Usage((("claude-haiku-5-5", Tokens(1)), ("gone", Tokens(1)))), AT)


def test_every_known_model_has_a_price():
    """What the book lists, it prices; no paid model has a rate of zero."""
    assert {"claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"} < set(BOOK.known_models())
    for model in BOOK.known_models():
        rates = BOOK.row(model, AT).rates
        assert min(rates.input, rates.output, rates.cache_read, rates.cache_write_5m) > 0
        assert rates.cache_write_1h >= rates.cache_write_5m >= rates.input >= rates.cache_read


def test_all_rows_of_a_day(tmp_path):
    """Each known model once, by name, on that day; a name asked for beside them as it is spelled."""
    book = PriceBook.load(price_file(tmp_path, "models.Zed = { input = 1, output = 1 }"))
    rows = book.rows(AT, ["ZED", "claude-opus-5-20260101", "nobody-has-this"])
    names = [row.model for row in rows]
    assert names == sorted(names, key=str.lower)
    assert set(names) == {*book.known_models(), "ZED", "claude-opus-5-20260101"} - {"zed"}
    assert all(row == book.row(row.model, AT) for row in rows)
    dated = {row.model: row.valid_from for row in book.rows(date(2026, 3, 12))}
    assert dated["claude-sonnet-4-6"] is None


def test_the_row_cache_is_bounded():
    """Names come from outside; many of them cost memory once, not for ever."""
    book = PriceBook.load()
    for number in range(10_000):
        book.row(f"claude-haiku-4-5-{number}", AT)
    assert len(book._rows) <= 4_096
    assert book.row("claude-haiku-4-5-1", AT) is book.row("claude-haiku-4-5-1", AT)


def test_pricing_a_call_takes_microseconds():
    """It runs on every model call: 15 µs at most, measured as the best of many."""
    usage = one("claude-haiku-5-5", input=1_000, output=200, cache_read=3_000, cache_write_5m=500)
    best_s = min(timeit.repeat(lambda: BOOK.cost(usage, AT), number=200, repeat=20)) / 200
    assert best_s <= 15e-6


def price_file(folder: Path, text: str) -> Path:
    file = folder / "prices.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_operators_file_goes_first(tmp_path):
    """Strings or numbers, any letter case; the row says where it comes from."""
    text = """
    [models."My-Model"]
    input = "1.00"
    output = 5
    cache_read = 0.1
    cache_write_5m = "0.000000001"
    cache_write_1h = "2"
    long_context = { above_tokens = 1000, input = "3", output = "9" }
    fast = { input = "4", output = "20", cache_read = "0.5" }
    web_search = "0.02"
    [models.claude-haiku-5-5]
    input = 0
    output = 0
    """
    book = PriceBook.load(price_file(tmp_path, text))
    row = book.row("my-model", AT)
    assert row.row_id == "override:prices.toml:my-model"
    assert row.rates == Rates(10**9, 5 * 10**9, 10**8, 1, 2 * 10**9)
    assert row.long == Rates(*[n * 10**7 for n in (300, 900, 300, 375, 600)])
    assert row.rates_for(1_000) is row.rates
    assert row.rates_for(1_001) is row.long
    assert row.fast == Rates(*[n * 10**7 for n in (400, 2000, 50, 500, 800)])
    assert row.rates_for(1_001, "fast") is row.fast
    assert row.web_search_nano == 20_000_000
    assert book.row("claude-haiku-5-5", AT).web_search_nano == 10_000_000
    assert book.cost(one("claude-haiku-5-5", input=9, output=9), AT).nano == 0
    assert "my-model" in book.known_models()


def test_the_example_in_the_documents_is_a_price_file(tmp_path):
    """It has every key there is, and its write prices are those that stand without them."""
    page = Path(__file__).parents[3] / "docs" / "operations.md"
    example = page.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    (table,) = tomllib.loads(example)["models"].values()
    assert set(table) == {*METERS, "web_search", "long_context", "fast"}
    row = PriceBook.load(price_file(tmp_path, example)).row("my-model", AT)
    shorter = [line for line in example.splitlines() if "cache_write" not in line]
    bare = PriceBook.load(price_file(tmp_path, "\n".join(shorter))).row("my-model", AT)
    assert row == bare
    assert (row.fast, row.web_search_nano) == (row.long, 10_000_000)


def test_cache_prices_left_out_are_the_dear_ones(tmp_path):
    """Reads at the input price, writes at 1.25 and 2 times it; a long write never below a short."""
    text = """
    [models.a]
    input = 1
    output = 5
    [models.b]
    input = 1
    output = 5
    cache_write_5m = 7
    """
    book = PriceBook.load(price_file(tmp_path, text))
    usd = 10**9
    assert book.row("a", AT).rates == Rates(usd, 5 * usd, usd, usd * 5 // 4, 2 * usd)
    assert book.row("b", AT).rates == Rates(usd, 5 * usd, usd, 7 * usd, 7 * usd)


def test_every_mistake_is_one_sentence(tmp_path):
    """All of them at once, each with file, model, key and what is wrong."""
    text = """
    currency = "USD"
    models.e = 1
    [models.a]
    input = "cheap"
    output = -1
    cache_raed = 1
    [models.b]
    input = nan
    cache_read = true
    long_context = { above_tokens = 0, input = "0.0000000001" }
    [models.c]
    input = 1_000_001
    output = 1
    long_context = 5
    fast = "2x"
    web_search = -1
    [models.f]
    input = "1.0000000000000000000000000000000001"
    output = 1
    web_search = "one cent"
    fast = { output = "1e7", above_tokens = 5, cache_write_1h = false }
    [models.d]
    input = 1
    output = 1
    [models.D]
    input = 1
    output = 1
    [models." "]
    input = 1
    output = 1
    """
    with pytest.raises(PriceFileError) as caught:
        PriceBook.load(price_file(tmp_path, text))
    meters = "input, output, cache_read, cache_write_5m, cache_write_1h"
    known = f"{meters}, long_context, fast, web_search"
    expected = f"""
    'currency' is not known; prices stand under [models."<name>"]
    model "e": must be a table with input and output prices
    model "a", cache_raed: is not known; known are {known}
    model "a", input: must be USD per million tokens, such as "1.25"
    model "a", output: must be between 0 and 1,000,000 USD
    model "b", output: is missing (USD per million tokens)
    model "b", input: must be between 0 and 1,000,000 USD
    model "b", cache_read: must be USD per million tokens, such as "1.25"
    model "b", long_context, above_tokens: must be a whole number of tokens, at least 1
    model "b", long_context, output: is missing (USD per million tokens)
    model "b", long_context, input: has more than nine decimals
    model "c", input: must be between 0 and 1,000,000 USD
    model "c", long_context: must be a table with above_tokens, input and output
    model "c", fast: must be a table with input and output
    model "c", web_search: must be between 0 and 1,000,000 USD
    model "f", input: has more than nine decimals
    model "f", web_search: must be USD a search, such as "0.01"
    model "f", fast, above_tokens: is not known; known are {meters}
    model "f", fast, input: is missing (USD per million tokens)
    model "f", fast, output: must be between 0 and 1,000,000 USD
    model "f", fast, cache_write_1h: must be USD per million tokens, such as "1.25"
    model "D": is there twice (names ignore upper and lower case)
    model " ": the name is empty
    """
    sentences = [f"prices.toml: {line.strip()}" for line in expected.strip().splitlines()]
    assert sorted(caught.value.mistakes) == sorted(sentences)
    assert str(caught.value).splitlines() == list(caught.value.mistakes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models = 3", "'models' must be a table"),
        ("models = ", "is not TOML"),
        (f"models = {'9' * 5_000}", "is not TOML"),
    ],
)
def test_a_file_of_the_wrong_kind_says_so(tmp_path, text, said):
    """Not TOML at all, or TOML of another shape."""
    with pytest.raises(PriceFileError, match=said):
        PriceBook.load(price_file(tmp_path, text))


def test_a_file_that_is_not_there_says_so(tmp_path):
    """A named file that cannot be read stops the start; it is not ignored."""
    with pytest.raises(PriceFileError, match=r"absent\.toml: cannot be read"):
        PriceBook.load(tmp_path / "absent.toml")


def test_half_a_price_is_no_price():
    """A row of the price list without an output price must not make output free."""
    half = ModelInfo(
        "half", ClauseEquals("half"), prices=ModelPrice(input_mtok=Decimal(1)), price_variants=None
    )
    with pytest.raises(UnknownModel):
        PriceBook({}, [half]).row("half", AT)
