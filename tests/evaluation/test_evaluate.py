"""One call measures everything; what is broken is found before; what a person rated comes back un-blinded."""

import json
import shutil
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from resources.lake import Lake
from resources.snapshot import Snapshot
from tests.evaluation.tiny_benchmarks import write_benchmarks
from tests.evaluation.tiny_models import save_twins
from tests.language_model.toy import TEMPLATES
from yunmin_assets.documents import DOCUMENT_SCHEMA, write_documents
from yunmin_assets.evaluation.assets import Past
from yunmin_assets.evaluation.blind_sheet import KEY_FILE, SHEET_FILE, Pair, read_key, write_blind_sheet
from yunmin_assets.evaluation.config import EvaluationConfig
from yunmin_assets.evaluation.evaluate import Findings, Models, evaluate_models, read_questions
from yunmin_assets.evaluation.model import JOINT, MERGED
from yunmin_assets.evaluation.regression import compare_with_last
from yunmin_assets.evaluation.scoring_config import load_scoring_rules

CONFIGS = Path(__file__).parents[2] / "configs"
RULES_FILE = CONFIGS / "scoring_rules.yaml"
CONFIG = EvaluationConfig(
    documents_per_domain=25, bootstrap_samples=100, max_new_tokens=4, benchmark_items=2, max_length=256
)
SENTENCE = "봄이 오면 산과 들에 꽃이 핀다고 적혀 있다."


def write_split(path: Path, domain: str, texts: list[str], source: str = "") -> Path:
    rows = [
        {"id": f"{domain}-{path.stem}-{n}", "text": text, "domain": domain, "source": source}
        for n, text in enumerate(texts)
    ]
    write_documents(pa.Table.from_pylist(rows, DOCUMENT_SCHEMA), path)
    return path


def write_prompts(path: Path, prompts: Mapping[str, str], kind: str = "poem") -> Path:
    rows = [{"id": name, "kind": kind, "prompt": text} for name, text in prompts.items()]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def findings(home: Path) -> Findings:
    """One model under every name, on two domains; the joint control is there as well."""
    twins = save_twins(home)
    models = Models(twins["base"], twins["merged"], dict.fromkeys(TEMPLATES, twins["merged"]), twins["base"])
    tests, training = {}, []
    for domain, templates in TEMPLATES.items():
        texts = [templates[0].format(number) for number in range(30)]
        tests[domain] = write_split(home / domain / "test.parquet", domain, texts, source="synthetic:toy")
        training.append(write_split(home / domain / "train.parquet", domain, [f"{SENTENCE} {domain}"]))
    prompts = {f"poem-{number}": f"{number}번째 봄이 오면" for number in range(20)} | {"poem-known": SENTENCE}
    questions = read_questions(
        write_prompts(home / "prompts.jsonl", prompts), RULES_FILE, write_benchmarks(home / "benchmarks")
    )
    return evaluate_models(models, tests, training, questions, CONFIG, home, home / "measured")


def test_an_identical_model_is_not_shown_to_differ_on_any_line(findings: Findings, home: Path) -> None:
    verdicts = [
        *(cell.verdict for cell in findings.cells if cell.model != "base"),
        *(row.verdict for row in findings.criteria),
        *(row.against_base.verdict for row in findings.choices if row.against_base),
        *(row.verdict for row in compare_with_last(findings.losses, home, MERGED, CONFIG)),
    ]
    assert len(verdicts) == 3 * 3 + 3 * 2 + 8 * 2 + 3
    assert set(verdicts) == {"not shown"}
    key = read_key(home / KEY_FILE)
    assert key.merged_is == {} and len(key.equal) == 21  # a person is not asked to tell a text from itself


def test_every_model_is_measured_on_every_domain_and_benchmark(findings: Findings) -> None:
    models = ("base", "merged", JOINT)
    assert {(cell.domain, cell.model) for cell in findings.cells} == {
        (domain, model) for domain in TEMPLATES for model in (*models, "mini")
    }
    assert {row.model for row in findings.choices} == set(models)
    assert all(cell.documents == 25 for cell in findings.cells)
    assert findings.synthetic


def test_whatever_a_model_is_measured_on_is_looked_up_in_the_training_text(findings: Findings) -> None:
    rows = {row.name: row for row in findings.contamination}
    tests = {f"test documents, {domain}" for domain in TEMPLATES}
    benchmarks = {row.benchmark for row in findings.choices}
    assert set(rows) == tests | benchmarks | {"prompts"}
    assert all(rows[name].any_share == 0.0 for name in tests)
    assert [item.item for item in rows["prompts"].worst] == ["poem-known"]
    assert rows["prompts"].worst[0].share == 1.0


def test_a_reference_is_looked_up_as_well(findings: Findings, home: Path) -> None:
    prompt = {"id": "1", "kind": "translation", "prompt": "옮기세요", "reference": SENTENCE}
    (home / "one.jsonl").write_text(json.dumps(prompt), encoding="utf-8")
    questions = read_questions(home / "one.jsonl", RULES_FILE, None)
    base = home / "base"
    tests = {"law": home / "law" / "test.parquet"}
    found = evaluate_models(
        Models(base, base, {"law": base}, None),
        tests,
        [home / "law" / "train.parquet"],
        questions,
        CONFIG,
        home,
        home / "measured with a reference",
    )
    assert found.contamination[-1].worst[0].excerpt.startswith("봄이 오면 산과 들에")
    assert found.choices == []
    assert {cell.model for cell in found.cells} == {"base", "merged", "mini"}


def broken_prompts(folder: Path) -> None:
    (folder / "prompts.jsonl").write_text('{"id": "1"}\n')


def unknown_kind(folder: Path) -> None:
    write_prompts(folder / "prompts.jsonl", {"1": "봄"}, kind="sonnet")


def broken_rules(folder: Path) -> None:
    text = (folder / "rules.yaml").read_text(encoding="utf-8")
    (folder / "rules.yaml").write_text(text.replace("intact: {zero: 0.20", "intact: {zeroo: 0.20"))


def broken_benchmark(folder: Path) -> None:
    (folder / "benchmarks" / "kobest_copa_tiny.jsonl").write_text("{}\n")


def no_benchmarks(folder: Path) -> None:
    shutil.rmtree(folder / "benchmarks")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (broken_prompts, r"prompts\.jsonl, line 1: .*kind Field required"),
        (unknown_kind, r"prompts\.jsonl: prompt 1 is of kind 'sonnet', .*rules\.yaml knows knowledge, "),
        (broken_rules, r"rules\.yaml: rules\.intact\.zero: Field required"),
        (broken_benchmark, r"kobest_copa_tiny\.jsonl has no usable item for kobest_copa \(item 1: no field"),
        (no_benchmarks, r"benchmarks is not a folder"),
    ],
)
def test_broken_questions_are_found_before_there_is_a_model(
    spoil: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    write_prompts(tmp_path / "prompts.jsonl", {"1": "봄"})
    shutil.copy(RULES_FILE, tmp_path / "rules.yaml")
    write_benchmarks(tmp_path / "benchmarks")
    files = (tmp_path / "prompts.jsonl", tmp_path / "rules.yaml", tmp_path / "benchmarks")
    assert len(read_questions(*files).benchmarks) == 8
    spoil(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        read_questions(*files)


class Sheet(HTMLParser):
    """What a person sees of each prompt, and the choices that the page would save."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.choices: list[tuple[str, str, str]] = []
        self.id = ""
        self._is_text = False
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.id = found.get("data-sheet", self.id)
        if tag == "input":
            self.choices.append((found["data-prompt"], found["data-criterion"], found["value"]))
        self._is_text = found.get("class", "").startswith("text")
        if self._is_text:
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._is_text = self._is_text and tag != "p"

    def handle_data(self, data: str) -> None:
        if self._is_text:
            self.texts[-1] += data


def publish_sheet(lake: Lake, seed: int, models: Mapping[str, str]) -> Snapshot:
    """A report's snapshot with nothing but its sheet and key."""
    pairs = [Pair(f"poem-{n}", "poem", f"{n}번째 봄", f"낡은 글 {n}", f"새 글 {n}") for n in range(12)]
    with lake.stage("eval_report") as staging:
        write_blind_sheet(staging.folder, pairs, load_scoring_rules(RULES_FILE), seed)
        return lake.commit(staging, asset="eval_report", domain=None, fingerprint=str(seed), inputs=models)


def rate(sheet: Sheet, is_liked: Callable[[str], bool]) -> dict[str, dict[str, str]]:
    """The ratings of a person who looks at the texts alone: prompt, A, B, prompt, A, B …"""
    prompts = list(dict.fromkeys(prompt for prompt, _, _ in sheet.choices))
    criteria = dict.fromkeys(criterion for _, criterion, _ in sheet.choices)
    ratings = {}
    for place, prompt in enumerate(prompts):
        a, b = sheet.texts[3 * place + 1 : 3 * place + 3]
        side = "A" if is_liked(a) else "B" if is_liked(b) else "tie"
        ratings[prompt] = dict.fromkeys(criteria, side)
    return ratings


def test_what_a_person_rated_on_an_older_sheet_comes_back_unblinded(tmp_path: Path) -> None:
    lake = Lake(uri=str(tmp_path / "lake"))
    rated = publish_sheet(lake, 1, {"base_model": "1", "merged_model": "2"})
    publish_sheet(lake, 2, {"base_model": "1", "merged_model": "3"})
    sheet = Sheet((rated.local / SHEET_FILE).read_text(encoding="utf-8"))
    ratings = rate(sheet, lambda text: text.startswith("새 글"))
    criteria = list(load_scoring_rules(RULES_FILE).criteria)
    ratings["poem-0"][criteria[0]] = "tie"
    del ratings["poem-1"][criteria[1]]
    ratings["poem-2"][criteria[2]] = "C"
    path = tmp_path / "ratings.json"
    path.write_text(json.dumps({"sheet": sheet.id, "ratings": ratings}), encoding="utf-8")
    found = Past(lake).ratings(path, {"base_model": "1", "merged_model": "2", "tokenizer": "4"}, 0.95)
    assert [(row.criterion, row.wins, row.ties, row.losses, row.unrated) for row in found["human"]] == [
        (criteria[0], 11, 1, 0, 0),
        (criteria[1], 11, 0, 0, 1),
        (criteria[2], 11, 0, 0, 1),
    ]
    assert all(row.verdict == "better" and row.p_value < 0.01 for row in found["human"])
    assert found["human_errors"] == (f"poem-2, {criteria[2]}: 'C' is not A, B or tie",)
    assert found["rated_report"] == rated.manifest.created
    assert found["rated_models_are_current"]
    later = Past(lake).ratings(path, {"base_model": "1", "merged_model": "3"}, 0.95)
    assert not later["rated_models_are_current"]
    path.write_text(json.dumps({"sheet": "another", "ratings": ratings}), encoding="utf-8")
    with pytest.raises(ValueError, match="saved by sheet another"):
        Past(lake).ratings(path, {"base_model": "1", "merged_model": "2"}, 0.95)
