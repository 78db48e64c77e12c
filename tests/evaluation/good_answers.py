"""Good answers to some of the prompts, written for the tests, and how the rules of the repository score a text."""

import json
from pathlib import Path

from yunmin_assets.evaluation.scoring_config import load_scoring_rules
from yunmin_assets.evaluation.scoring_rules import RuleScores, score_generations
from yunmin_assets.evaluation.text_rules import Answer

CONFIGS = Path(__file__).parents[2] / "configs"
RULES_FILE = CONFIGS / "scoring_rules.yaml"
RULES = load_scoring_rules(RULES_FILE)
PROMPTS = {
    record["id"]: record
    for record in map(json.loads, (CONFIGS / "eval_prompts.jsonl").read_text(encoding="utf-8").splitlines())
}
CRITERIA = ("informativeness", "naturalness", "consistency")
REFERENCES = {name: record["reference"] for name, record in PROMPTS.items() if "reference" in record}

GOOD = {
    "knowledge-1": " 광합성이라고 한다. 광합성에는 햇빛과 물, 이산화 탄소가 필요하며 잎에서 주로 일어난다.",
    "knowledge-3": "\n대한민국의 수도는 서울이고, 서울을 동서로 가로지르는 강은 한강입니다.",
    "knowledge-5": "\n높은 산에서는 기압이 낮아서 물이 100도보다 낮은 온도에서 끓습니다. "
    "그래서 밥을 지으면 설익기 쉽습니다.",
    "conversation-1": " 토요일에는 언니랑 영화 보기로 했고 일요일은 비었어. 너는 주말에 뭐 할 거야?",
    "conversation-4": " 열은 나셨나요? 목을 한번 보겠습니다. 기침이 심하면 사흘 치 약을 드릴게요.",
    "explanation-2": "\n은행에 돈을 맡기면 은행은 그 돈을 다른 사람에게 빌려줍니다. 그 대가로 은행이 우리에게 "
    "조금 더 얹어 주는 돈을 이자라고 해요. 오래 맡길수록 이자도 많아집니다.",
    "explanation-6": " 한 곳에서 비밀번호가 새어 나가면 다른 누리집까지 한꺼번에 뚫리기 때문이다. 도둑은 "
    "훔친 비밀번호를 여러 곳에 넣어 본다. 그래서 누리집마다 다른 비밀번호를 쓰는 것이 안전하다.",
    "summary-1": " 도서관이 밤 열 시까지 문을 열자 한 달 사이에 저녁 이용자가 두 배가 되었다.",
    "summary-5": " 배송이 빠르고 가방도 가볍지만 지퍼가 자주 걸려 아쉽다는 후기이다.",
    "translation-1": " 기차는 일곱 시에 출발하니까 조금 일찍 오세요.",
    "translation-2": " Once the rain stops, let's walk slowly along the riverside.",
    "code-1": '\n    return sum("가" <= letter <= "힣" for letter in text)\n',
    "code-4": " 이름, 점수\nFROM 학생\nORDER BY 점수 DESC\nLIMIT 3;",
    "poem-2": "\n물러난 파도가 모래에 남긴 이름\n가을 바람이 한 줄씩 지우고 간다\n"
    "빈 의자 하나 바다를 보다가\n저녁노을 쪽으로 기울어 앉는다",
    "poem-3": " 퇴근길 버스 창에 기대어 졸다 보니\n근심은 두 정거장 앞에서 먼저 내렸다",
}


def answer(prompt_id: str, text: str, ended: bool = True) -> Answer:
    record = PROMPTS[prompt_id]
    return Answer(prompt_id, record["kind"], record["prompt"], text, ended, record.get("reference"))


def scored(prompt_id: str, text: str, ended: bool = True) -> RuleScores:
    return score_generations([answer(prompt_id, text, ended)], RULES)[0]


def found(rule: str, prompt_id: str, text: str, ended: bool = True) -> tuple[float, str]:
    judged = scored(prompt_id, text, ended).rules[rule]  # type: ignore[index]
    return judged.score, judged.reason
