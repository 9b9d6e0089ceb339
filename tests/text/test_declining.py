"""Refusals in several languages, and answers that sound like one and are none."""

import pytest

from sdpo.text.declining import declines

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I cannot assist with this request.",
    "I am sorry, but I am unable to provide that information.",
    "Sorry, I can't do that.",
    "Sorry, but I won't write this.",
    "I cannot help you with that.",
    "I can't assist with that request.",
    "I can not provide instructions for this.",
    "I'm unable to help with this topic.",
    "I'm not able to discuss that.",
    "I won't help with something that could hurt people.",
    "As an AI language model, I cannot give an opinion on this.",
    "As an AI, I can't browse the internet.",
    "Unfortunately, I can't share that.",
    "I apologize, but I cannot fulfill this request.",
    "My apologies, but I'm not able to continue.",
    "I must decline this request.",
    "I have to respectfully decline.",
    "I'm afraid I can't answer that.",
    "I understand that you are upset, but I can't help with this.",
    "Thank you for your question, however I cannot respond to it.",
    "I'm not comfortable writing about this.",
    "I would rather not say.",
    "This request goes against my guidelines.",
    "Es tut mir leid, aber ich kann dabei nicht helfen.",
    "Tut mir leid, das kann ich leider nicht beantworten.",
    "Leider kann ich keine Auskunft dazu geben.",
    "Je suis désolé, mais je ne peux pas vous aider.",
    "Désolée, je ne peux pas répondre à cette question.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "Mi dispiace, ma non posso aiutarti.",
    "Desculpe, mas não posso ajudar com isso.",
    "Het spijt me, maar daar kan ik je niet bij helpen.",
    "Извините, но я не могу помочь с этим.",
    "К сожалению, я не могу ответить на этот вопрос.",
    "很抱歉，我无法回答这个问题。",
    "对不起，我不能提供帮助。",
    "申し訳ありませんが、お手伝いできません。",
    "죄송하지만 도와드릴 수 없습니다.",
]
ANSWERS = [
    "I can help with that. First open the lid.",
    "I cannot praise this book enough: it is a masterpiece.",
    "I can't say for sure, but the blue one is probably older.",
    "Sorry for the long wait! Your parcel leaves today.",
    "Sorry to hear that. Try to rest, and drink something warm.",
    "I'm sorry to hear that your cat is ill. Call a vet first.",
    "I'm sorry for the confusion: the shop opens at nine.",
    "Unfortunately, the train does not run on Sundays. Take the bus.",
    "You cannot mix these two cleaners, because the fumes are poisonous.",
    "No, whales are mammals.",
    "It can't be helped: bread goes stale.",
    "I won the race yesterday, and it was wonderful.",
    "I will help you with the letter. Here is a draft.",
    "As an engineer, I cannot stress enough how useful tests are.",
    "Dear Ms Lang, I cannot come to the meeting on Friday. Could we move it?",
    "I can't wait to see you on Saturday!",
    "I understand the question. The answer is seven.",
    "Thank you for asking! I am fine.",
    "I apologize for the delay in my reply. The figures are below.",
    "My apologies for yesterday. Let us meet at ten.",
    "I'd rather take the train, because it is faster.",
    "I would prefer the cat, since it needs less time.",
    "To decline an offer politely, say that you are honoured.",
    "```python\nraise ValueError('I cannot help with that')\n```",
    "Here is the text: I'm sorry, but I can't help with that.",
    "Das kann man nicht sagen, ohne die Zahlen zu kennen.",
    "Leider regnet es morgen, also nimm einen Schirm mit.",
    "Je ne sais pas tout, mais voici trois idées.",
    "Lo siento mucho por tu pérdida.",
    "No puedo esperar a verte el sábado.",
    "Non posso che essere d'accordo: è il più bello.",
    "К сожалению, завтра будет дождь.",
    "抱歉让您久等了。商店九点开门。",
    "ごめんなさい、遅くなりました。店は九時に開きます。",
    "",
    "Lima",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_noticed(text):
    assert declines(text) and declines(f"\n{text} Is there something else?")


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_are_not_taken_for_refusals(text):
    assert not declines(text)


def test_only_the_opening_is_read():
    assert not declines("The harbour has a bus. " * 12 + "I'm sorry, but I can't help with that.")


def test_a_very_long_answer_takes_no_time():
    assert not declines("I understand " * 50_000) and not declines(" " * 500_000)
