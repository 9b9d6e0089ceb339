"""The language of a text: sentences of many languages, those too short to tell, and answers beside their prompts."""

import pytest

from sdpo.english.prompts import prompts
from sdpo.text.languages import in_other_language, language_of
from sdpo.text.prompts import GENERAL_PROMPTS, OPEN_PROMPTS

SENTENCES = {
    "en": [
        "You can keep the bread fresh by wrapping it in a clean towel.",
        "First open the window, then wait until the room has cooled down.",
        "I would not buy that one, because it breaks after a few weeks.",
        "The museum is closed on Mondays but open for the rest of the week.",
        "Put the eggs into cold water and bring it to the boil.",
        "There are three ways to do this, and the second is the easiest.",
    ],
    "de": [
        "Sie können das Brot frisch halten, indem Sie es in ein Tuch wickeln.",
        "Der Zug fährt heute nicht, weil die Strecke gesperrt ist.",
        "Ich würde das nicht kaufen, denn es geht nach wenigen Wochen kaputt.",
        "Zuerst das Fenster öffnen und dann warten, bis es kühler wird.",
        "Das Museum ist montags geschlossen, aber sonst an allen Tagen offen.",
        "Dafür gibt es drei Wege, und der zweite ist der einfachste.",
    ],
    "fr": [
        "Vous pouvez garder le pain frais en le mettant dans un torchon.",
        "Le train ne part pas aujourd'hui parce que la voie est fermée.",
        "Je ne l'achèterais pas, car il se casse après quelques semaines.",
        "Le musée est fermé le lundi mais ouvert tous les autres jours.",
        "Il y a trois façons de le faire, et la deuxième est la plus simple.",
    ],
    "es": [
        "Puede mantener el pan fresco si lo envuelve en un paño limpio.",
        "El tren no sale hoy porque la vía está cerrada.",
        "Yo no lo compraría, porque se rompe después de unas semanas.",
        "El museo está cerrado los lunes, pero abre el resto de la semana.",
        "Hay tres maneras de hacerlo y la segunda es la más fácil.",
    ],
    "it": [
        "Può tenere il pane fresco avvolgendolo in un panno pulito.",
        "Il treno non parte oggi perché la linea è chiusa.",
        "Non lo comprerei, perché si rompe dopo poche settimane.",
        "Ci sono tre modi di farlo e il secondo è il più facile.",
    ],
    "pt": [
        "Você pode manter o pão fresco se o embrulhar em um pano limpo.",
        "O trem não sai hoje porque a linha está fechada.",
        "Não compraria isso, porque quebra depois de algumas semanas.",
        "O museu está fechado às segundas, mas abre nos outros dias.",
    ],
    "nl": [
        "Je kunt het brood vers houden door het in een doek te wikkelen.",
        "De trein rijdt vandaag niet, omdat het spoor gesloten is.",
        "Er zijn drie manieren om dit te doen en de tweede is het makkelijkst.",
    ],
    "pl": [
        "Możesz zachować świeży chleb, jeśli zawiniesz go w czystą ścierkę.",
        "Pociąg dziś nie jedzie, bo tor jest zamknięty.",
        "Nie kupiłbym tego, bo po kilku tygodniach się psuje.",
    ],
    "sv": [
        "Du kan hålla brödet färskt om du lägger det i en ren handduk.",
        "Tåget går inte i dag, för spåret är stängt.",
        "Det finns tre sätt att göra det och det andra är enklast.",
    ],
    "tr": [
        "Ekmeği temiz bir beze sararak taze tutabilirsiniz, bu çok kolay.",
        "Tren bugün kalkmıyor, çünkü hat kapalı ve bu ne kadar sürer bilmiyoruz.",
    ],
    "ru": ["Хлеб можно сохранить свежим, если завернуть его в полотенце.", "Поезд сегодня не идёт."],
    "uk": ["Хліб можна зберегти свіжим, якщо загорнути його в рушник."],
    "el": ["Το τρένο δεν φεύγει σήμερα."],
    "he": ["הרכבת לא יוצאת היום."],
    "ar": ["القطار لا يغادر اليوم."],
    "fa": ["قطار امروز حرکت نمی‌کند چون مسیر بسته است."],
    "hi": ["ट्रेन आज नहीं चल रही है।"],
    "th": ["วันนี้รถไฟไม่ออก"],
    "zh": ["今天火车不开。", "把面包包在干净的布里可以保鲜。"],
    "ja": ["今日は電車が動きません。", "パンをきれいな布で包むと新鮮に保てます。"],
    "ko": ["오늘은 기차가 운행하지 않습니다."],
}


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences_are_told_apart(language):
    assert {text: language_of(text) for text in SENTENCES[language]} == dict.fromkeys(SENTENCES[language], language)


def test_prompts_in_english_are_hardly_ever_taken_for_another_language():
    texts = [row.prompt for split in ("train", "validation") for row in prompts(split)] + [
        text for texts in OPEN_PROMPTS.values() for text in texts
    ]
    found = [language_of(text) for text in (*texts, *GENERAL_PROMPTS)]
    assert len(found) > 450 and set(found) <= {"en", None}
    assert [language_of(text) for text in texts].count("en") >= 0.98 * len(texts)


@pytest.mark.parametrize(
    "text", ["", "Lima", "42", "Yes.", "1. 2. 3.", "🙂🙂🙂", "???", "x = y + 1", "Paris, Lima, Rome"]
)
def test_what_is_short_or_no_language_is_not_told(text):
    assert language_of(text) is None


def test_code_and_addresses_are_not_read():
    german = "Das ist die Datei, und so wird sie gelesen:"
    code = "```python\nfor the_line in open(the_file): print('this is the line of the file that you have')\n```"
    assert language_of(f"{german}\n{code}") == "de"
    assert language_of(code) is None and language_of("`the and of to is that`") is None
    assert language_of("https://example.org/the/and/of/to/is/that") is None


def test_a_few_foreign_words_do_not_change_the_language():
    assert language_of("The word 好 means good, and you say it with a low and rising tone.") == "en"
    assert language_of("The German for this is Schadenfreude, and there is no English word for it.") == "en"
    assert language_of("「API」は Application Programming Interface の略で、プログラムの間の約束です。") == "ja"
    assert language_of("使用 Python 的 open 函数可以读取文件的内容。") == "zh"


PAIRS = [
    ("How do I keep bread fresh for longer?", SENTENCES["en"][0], False),
    ("How do I keep bread fresh for longer?", SENTENCES["de"][0], True),
    ("How do I keep bread fresh for longer?", SENTENCES["zh"][1], True),
    ("How do I keep bread fresh for longer?", SENTENCES["ru"][0], True),
    ("Wie halte ich das Brot länger frisch?", SENTENCES["de"][0], False),
    ("Wie halte ich das Brot länger frisch?", SENTENCES["en"][0], True),
    ("¿Cómo puedo mantener el pan fresco por más tiempo?", SENTENCES["en"][0], True),
    ("¿Cómo puedo mantener el pan fresco por más tiempo?", SENTENCES["es"][0], False),
    ("如何让面包保持新鲜?", SENTENCES["en"][0], True),
    ("如何让面包保持新鲜?", SENTENCES["zh"][1], False),
    # Too short to tell.
    ("What is the capital of Peru? Reply with the name only.", "Lima", None),
    ("How do I keep bread fresh for longer?", "", None),
    # Asked for.
    ("Translate to German: the bread is fresh.", SENTENCES["de"][0], None),
    ("How do I say in French that the train does not leave today?", SENTENCES["fr"][1], None),
    ("Write a Spanish sentence about a train that is late.", SENTENCES["es"][1], None),
    ("Antworte bitte auf Englisch: Wie bleibt Brot frisch?", SENTENCES["en"][0], None),
]


@pytest.mark.parametrize(("prompt", "answer", "expected"), PAIRS)
def test_an_answer_in_another_language_than_its_prompt(prompt, answer, expected):
    assert in_other_language(prompt, answer) is expected
