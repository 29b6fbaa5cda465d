"""docs/math.md: every name in it exists, its formulas survive Markdown, and its numbers are right.

Under each formula the page has lines of this form, which this file reads:
    - Code: `path.hpp`: `name`, `Class::member`; `other.hpp`: `name`.
    - Test: `Suite.Name`, `tests/folder/test_file.py::test_name`.
    - Source: ...
"""

import math
import re

import numpy as np
import pytest

CODE_ITEM = re.compile(r"`([^`]+\.hpp)`: (`[^`]+`(?:, `[^`]+`)*)")
CPP_TEST = re.compile(r"^TEST(?:_F|_P)?\(\s*(\w+)\s*,\s*(\w+)\s*\)", re.MULTILINE)
MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", re.DOTALL)


def names(text):
    return re.findall(r"`([^`]+)`", text)


def without_comments(cpp):
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", cpp, flags=re.DOTALL)


def body_of(cpp, type_name):
    """What stands in the braces of a class or struct; empty where there is none."""
    start = re.search(rf"\b(?:class|struct) {type_name}\b[^;{{]*{{", cpp)
    if not start:
        return ""
    depth = 1
    for i in range(start.end(), len(cpp)):
        depth += {"{": 1, "}": -1}.get(cpp[i], 0)
        if depth == 0:
            return cpp[start.end():i]
    return ""


def declares(cpp, name):
    """Whether a header declares a function, type, constant or member of this name; a comment that mentions it does not count."""
    cpp = without_comments(cpp)
    scope, _, name = name.rpartition("::")
    if scope:
        cpp = body_of(cpp, scope)
    while (outside := re.sub(r"\([^()]+\)", "()", cpp)) != cpp:  # parameters are no declarations
        cpp = outside
    return re.search(rf"\b(?:class|struct|using)\s+{name}\b|\b{name}\s*[({{;=,]", cpp) is not None


def sections(page):
    """(heading, text) of each numbered section, without its subsections."""
    parts = re.split(r"^#{2,3} (\d.*)$", page, flags=re.MULTILINE)[1:]
    return [(heading, re.split(r"^## ", text, flags=re.MULTILINE)[0]) for heading, text in zip(parts[::2], parts[1::2])]


def lines_of(text, kind):
    """The lines `- kind: ...` of a section, each with its continuation."""
    return [" ".join(line.split()) for line in re.findall(rf"^- {kind}: (.+(?:\n  .+)*)", text, re.MULTILINE)]


def problems(page, root):
    """What the page says that is not so, as text."""
    cpp_tests = {f"{suite}.{test}" for path in root.glob("tests/**/*.cpp") for suite, test in CPP_TEST.findall(path.read_text())}
    found = []
    for heading, text in sections(page):
        for kind in ("Code", "Test", "Source"):
            if "$$" in text and not lines_of(text, kind):
                found.append(f"{heading}: a formula, but no line '- {kind}:'")
        for line in lines_of(text, "Code"):
            items = CODE_ITEM.findall(line)
            if "; ".join(f"`{path}`: {listed}" for path, listed in items) + "." != line:
                found.append(f"{heading}: cannot read '{line}'")
            for path, listed in items:
                header = (root / path).read_text() if (root / path).is_file() else None
                if header is None:
                    found.append(f"{heading}: there is no {path}")
                else:
                    found += [f"{heading}: {path} does not declare {name}" for name in names(listed) if not declares(header, name)]
        for line in lines_of(text, "Test"):
            if ", ".join(f"`{name}`" for name in names(line)) + "." != line:
                found.append(f"{heading}: cannot read '{line}'")
            for name in names(line):
                path, _, function = name.partition("::")
                if function:
                    exists = (root / path).is_file() and re.search(rf"^def {function}\(", (root / path).read_text(), re.MULTILINE)
                else:
                    exists = name in cpp_tests
                if not exists:
                    found.append(f"{heading}: there is no test {name}")
    return found


def broken_formulas(page):
    """Formulas that Markdown would change before they are set: emphasis, escapes, strike-through, HTML, cells of tables."""
    page = re.sub(r"`[^`\n]*`", "", page)
    found = []
    for match in MATH.finditer(page):
        formula = match[1] or match[2]
        row = page[page.rfind("\n", 0, match.start()) + 1:match.start()].startswith("|")
        after = page[match.end():match.end() + 1]
        if (re.search(r"[*~<>`]|(?<![0-9A-Za-z])_|\\[^A-Za-z ]", formula) or formula != formula.strip() or after.isalnum()
                or (row and "|" in formula) or (match[1] and "\n" in formula)):
            found.append(formula)
    rest = MATH.sub("", page)
    return found + [line for line in rest.splitlines() if "$" in line]


@pytest.fixture(scope="module")
def page(source_dir):
    return (source_dir / "docs" / "math.md").read_text()


def section(page, number):
    return next(text for heading, text in sections(page) if heading.startswith(number))


# --- Names ----------------------------------------------------------------------------------------------------------------


def test_every_name_of_the_page_exists(page, source_dir):
    assert len(sections(page)) > 25
    assert problems(page, source_dir) == []


HEADER = """
/// Not declared: ghost(), Thing::phantom.
double real_one(double parameter);
struct Thing { double field = 1; void method() const; };  // shade
enum class Kind { first, second };
"""
GOOD = "- Code: `a.hpp`: `real_one`, `Thing::field`, `Thing::method`, `Kind`.\n- Test: `Suite.Holds`,\n  `tests/test_a.py::test_b`.\n- Source: a book.\n"


@pytest.mark.parametrize("text, said", [
    (GOOD, []),
    (GOOD.replace("real_one", "real_two"), ["1. S: a.hpp does not declare real_two"]),
    (GOOD.replace("real_one", "ghost"), ["1. S: a.hpp does not declare ghost"]),
    (GOOD.replace("real_one", "shade"), ["1. S: a.hpp does not declare shade"]),
    (GOOD.replace("real_one", "parameter"), ["1. S: a.hpp does not declare parameter"]),
    (GOOD.replace("real_one", "field_"), ["1. S: a.hpp does not declare field_"]),
    (GOOD.replace("Thing::method", "Thing::real_one"), ["1. S: a.hpp does not declare Thing::real_one"]),
    (GOOD.replace("Thing::method", "Other::method"), ["1. S: a.hpp does not declare Other::method"]),
    (GOOD.replace("a.hpp", "b.hpp"), ["1. S: there is no b.hpp"]),
    (GOOD.replace("Suite.Holds", "Suite.Breaks"), ["1. S: there is no test Suite.Breaks"]),
    (GOOD.replace("Suite.Holds", "Suite.Commented"), ["1. S: there is no test Suite.Commented"]),
    (GOOD.replace("::test_b", "::test_c"), ["1. S: there is no test tests/test_a.py::test_c"]),
    (GOOD.replace("test_a.py", "test_z.py"), ["1. S: there is no test tests/test_z.py::test_b"]),
    (GOOD.replace("`Kind`.", "`Kind`"), ["1. S: cannot read '`a.hpp`: `real_one`, `Thing::field`, `Thing::method`, `Kind`'"]),
    (GOOD.replace("`Suite.Holds`,", "Suite.Holds,"), ["1. S: cannot read 'Suite.Holds, `tests/test_a.py::test_b`.'"]),
    (GOOD.replace("- Test: ", "Test: "), ["1. S: a formula, but no line '- Test:'"]),
    ("", [f"1. S: a formula, but no line '- {kind}:'" for kind in ("Code", "Test", "Source")]),
])
def test_a_wrong_name_is_found(tmp_path, text, said):
    (tmp_path / "a.hpp").write_text(HEADER)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "a_test.cpp").write_text("TEST(Suite, Holds) {}\n// TEST(Suite, Commented) {}\n")
    (tmp_path / "tests" / "test_a.py").write_text("def test_b():\n    pass\n")
    assert problems(f"# Page\n\n## 1. S\n\n$$x$$\n\n{text}\n## Papers\n", tmp_path) == said


def test_formulas_are_what_markdown_leaves_alone(page):
    assert broken_formulas(page) == []


@pytest.mark.parametrize("text", ["$\\hat{x}_t$", "$a*b$", "$a\\,b$", "$\\{a\\}$", "$a<b$", "$ a$", "| $|a|$ | b |", "$x$s", "a lone $ sign", "$$a\n+b$$"])
def test_formulas_that_markdown_would_change_are_found(text):
    assert len(broken_formulas(text)) == 1


# --- Numbers --------------------------------------------------------------------------------------------------------------


def test_the_figures_of_section_12_are_those_of_the_tests(page, source_dir):
    figure = re.compile(r"\b\d\.\d{5,}\b")
    tested = {value for path in (source_dir / "tests" / "trainer").glob("*.cpp") for value in figure.findall(path.read_text())}
    stated = figure.findall(section(page, "12."))
    assert len(stated) == 29
    assert set(stated) <= tested


# The case of section 5: alpha_t = beta_t = abar_{t-1} = 1/2, x_0 = epsilon = 1.
ALPHA = BETA = PREVIOUS = 0.5
ABAR = ALPHA * PREVIOUS
X_0 = EPSILON = 1.0
X_T = math.sqrt(ABAR) * X_0 + math.sqrt(1 - ABAR) * EPSILON


def multiplied_gaussians():
    """Mean and variance of q(x_{t-1} | x_t, x_0), by multiplying q(x_t | x_{t-1}) and q(x_{t-1} | x_0) on a grid."""
    x = np.linspace(-12, 12, 100_001)
    density = np.exp(-(X_T - math.sqrt(ALPHA) * x)**2 / (2 * BETA) - (x - math.sqrt(PREVIOUS) * X_0)**2 / (2 * (1 - PREVIOUS)))
    weights = density / density.sum()
    mean = weights @ x
    return mean, weights @ (x - mean)**2


def test_the_variance_of_the_posterior_is_no_square(page):
    beta_tilde = (1 - PREVIOUS) / (1 - ABAR) * BETA
    _, variance = multiplied_gaussians()
    assert variance == pytest.approx(beta_tilde, rel=1e-10) == pytest.approx(1 / 3)
    assert beta_tilde**2 == pytest.approx(1 / 9)
    assert "$\\tilde\\beta_t=1/3$" in section(page, "5.") and "$1/9$" in section(page, "5.")


def test_the_bracket_of_the_mean_holds_both_terms(page):
    mean, _ = multiplied_gaussians()
    by_image = math.sqrt(ALPHA) * (1 - PREVIOUS) / (1 - ABAR) * X_T + math.sqrt(PREVIOUS) * BETA / (1 - ABAR) * X_0
    by_noise = (X_T - BETA / math.sqrt(1 - ABAR) * EPSILON) / math.sqrt(ALPHA)
    misplaced = X_T / math.sqrt(ALPHA) - BETA / math.sqrt(1 - ABAR) * EPSILON
    assert by_image == pytest.approx(mean, rel=1e-10) == pytest.approx(by_noise, rel=1e-10)
    assert f"at {mean:.6f}" in section(page, "5.") and f"says {misplaced:.6f}" in section(page, "5.")


def test_the_bound_lies_above_minus_log_p(page):
    # T = 1, beta_1 = 1/2, p(x_1) = N(0, 1), p(x_0 | x_1) = N(x_1 / 2, 1/2), x_0 = 1; every integral on a grid of x_1.
    x = np.linspace(-15, 15, 300_001)
    normal = lambda x, mean, variance: np.exp(-(x - mean)**2 / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    integral = lambda values: values.sum() * (x[1] - x[0])
    q, prior, decoder = normal(x, math.sqrt(0.5), 0.5), normal(x, 0, 1), normal(1, x / 2, 0.5)
    inside = q > 1e-200
    mean_of_log = lambda ratio: integral(np.where(inside, q * np.log(np.where(inside, ratio, 1)), 0))
    minus_log_p = -math.log(integral(prior * decoder))
    prior_term, decoder_term = mean_of_log(q / prior), -mean_of_log(decoder)
    gap = mean_of_log(q / (prior * decoder / integral(prior * decoder)))
    bound = prior_term + decoder_term
    assert bound >= minus_log_p > -bound
    assert bound - minus_log_p == pytest.approx(gap, rel=1e-9)
    warning = section(page, "5.")
    assert f"$-\\log p(1)={minus_log_p:.6f}$" in warning
    assert f"$L=L_T+L_0={prior_term:.6f}+{decoder_term:.6f}={bound:.6f}$" in warning
    assert f"{gap:.6f}" in warning and f"$-{bound:.6f}$" in warning


def linear_schedule():
    """beta_t, abar_t and abar_{t-1}."""
    beta = np.linspace(1e-4, 0.02, 1000)
    abar = np.cumprod(1 - beta)
    return beta, abar, np.append(1.0, abar[:-1])


def test_the_bound_weighs_noise_and_image_alike():
    # Sections 6.2 and 7.1 with Sigma_t = beta~_t: w_t |eps - eps_hat|^2 = (SNR(t-1) - SNR(t)) / 2 |x_0 - x0_hat|^2.
    beta, abar, previous = (values[1:] for values in linear_schedule())
    posterior = (1 - previous) / (1 - abar) * beta
    w = beta**2 / (2 * posterior * (1 - beta) * (1 - abar))
    snr, snr_before = abar / (1 - abar), previous / (1 - previous)
    np.testing.assert_allclose(w * snr, (snr_before - snr) / 2, rtol=1e-9)
    np.testing.assert_allclose(w, (snr_before / snr - 1) / 2, rtol=1e-9)
    # t = 2 and t = 100, counted from 1.
    assert (round(w[0], 2), round(w[98], 2)) == (0.60, 0.01)
    assert 0.0049 < w[98:].min() and w[98:].max() == w[98]


def test_edm_amplifies_errors_least_and_is_v_for_unit_data():
    for sigma in (0.01, 0.5, 3.0):
        c_out = lambda c_skip: math.hypot((1 - c_skip) * 0.5, c_skip * sigma)
        best = 0.25 / (sigma**2 + 0.25)
        assert c_out(best) == pytest.approx(sigma * 0.5 / math.hypot(sigma, 0.5), rel=1e-12)
        assert c_out(best) < min(c_out(best * 1.001), c_out(best * 0.999))
        # sigma_d = 1: what is said of x_0 + sigma eps, for x = a (x_0 + sigma eps) with a^2 (1 + sigma^2) = 1.
        a = 1 / math.hypot(1, sigma)
        c_skip, c_out = 1 / (sigma**2 + 1) / a, sigma / math.hypot(sigma, 1)
        assert (c_skip, c_out) == pytest.approx((a, a * sigma))


def test_the_first_order_step_of_dpm_solver_is_ddim():
    _, abar, _ = linear_schedule()
    for t, to in ((999, 949), (500, 20), (3, 0)):
        (a, s), (a_to, s_to) = ((math.sqrt(abar[i]), math.sqrt(1 - abar[i])) for i in (t, to))
        x, x0 = 0.7, -0.4
        h = math.log(a_to / s_to) - math.log(a / s)
        ddim = a_to * x0 + s_to * (x - a * x0) / s
        assert s_to / s * x + a_to * (1 - math.exp(-h)) * x0 == pytest.approx(ddim, rel=1e-12)
