"""Patterns of answers that mention their critique, or an attempt before them.

An answer has to be complete without its critique: "as the feedback notes" in a revision shows that it depends
on text that is absent at evaluation. "Feedback" as a subject of its own, as in a feedback loop or an
amplifier's feedback, is not a mention.
"""

from __future__ import annotations

import re

_WHO = (
    r"(?:(?:expert|reviewer|critic|teacher|tutor|grader|judge|evaluator|instructor|assistant|given|provided|"
    r"previous|above|earlier|your|this|user|detailed|helpful)(?:'s|s')?\s+){0,3}"
)
# "review" and "comment" alone are what many tasks are about, so they need a "your" or an expert.
_WHAT = r"(?:feedback|critiques?|criticisms?|hints?)"
_OWNED = (
    r"(?:(?:your|the (?:expert|reviewer|critic|teacher|tutor|grader|judge|evaluator|instructor)(?:'s|s')?)\s+"
    r"(?:feedback|critiques?|criticisms?|reviews?|comments?|remarks?|corrections?|notes?|hints?|suggestions?|"
    r"guidance))"
)
_PERSON = r"(?:expert|reviewer|critic|grader|evaluator|teacher|tutor|instructor|judge)"
_SAID = (
    r"(?:notes?|noted|points? (?:it )?out|pointed (?:it )?out|says?|said|states?|stated|mentions?|mentioned|"
    r"suggests?|suggested|indicates?|indicated|identif(?:ies|ied)|highlights?|highlighted|explains?|"
    r"explained|observes?|observed|correctly \w+|rightly \w+|recommends?|recommended|advises?|advised|"
    r"reveals?|revealed|tells? me|told me|asks? me|flagged|flags|wants? me|asked me)"
)
# Not "feedback loop", "feedback control", "critique of pure reason", "the positive feedback of …".
_NOT_A_THING = (
    r"(?![\s-]+(?:loops?|control\w*|systems?|circuits?|amplif\w*|paths?|gains?|resist\w*|mechanisms?|"
    r"signals?|linear\w*|shift|registers?|networks?|effects?|inhibition|forms?|buttons?|survey|edges?|vertex|"
    r"arcs?|law|matrix|polynomial|of\b|between|from (?:the )?(?:output|customers?|users?|sensors?|plant|"
    r"readers?|patients?|students?))\b)"
)
_BEFORE = r"(?:previous|earlier|prior|initial|original|first|last|former|preceding)"
_MINE = (
    r"(?:solution|answer|attempt|response|calculation|computation|reasoning|code|submission|reply|derivation|"
    r"draft|try|version)"
)
_MENTIONS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:as|like) (?:the |your |an? |this )?{_WHO}{_WHAT}(?: (?:correctly|rightly|above))? {_SAID}\b",
        rf"\bthe {_WHO}{_WHAT}{_NOT_A_THING},? (?:also |correctly |rightly |then |"
        rf"clearly )?{_SAID}\b(?! (?:of the|to the input))",
        rf"\b(?:based on|according to|following|given|considering|per|in (?:light|view|response) (?:of|to)|"
        rf"thanks? (?:to|for)|in accordance with|using|after (?:reading|reviewing|considering|receiving)|"
        rf"guided by|incorporating|addressing|to address|taking into account|with|from|heeding|applying|"
        rf"i (?:read|considered|reviewed|received|agree with|appreciate|accept|"
        rf"understand)) (?:all )?(?:the |this |that )?{_WHO}(?:critiques?|criticisms?)\b(?! of\b| by\b)",
        rf"\b(?:based on|according to|following|in (?:light|view|response) (?:of|to)|thanks? (?:to|for)|"
        rf"after (?:reading|reviewing|considering|receiving)|guided by|incorporating|addressing|to address|"
        rf"taking into account|heeding|i (?:read|considered|reviewed|received|agree with|appreciate|accept|"
        rf"understand)) (?:all )?(?:the|this|that) {_WHO}(?:feedback|hints?|comments? (?:above|given|"
        rf"provided))\b{_NOT_A_THING}",
        rf"\b{_OWNED}\b(?! (?:loop|control))",
        rf"\b(?:as|what) (?:the|your|an?) {_PERSON} (?:has |have |had )?(?:correctly |rightly |"
        rf"also )?{_SAID}\b",
        rf"\bthe {_PERSON} (?:has |had )?(?:correctly |rightly |also )?(?:pointed out|noted|points out|notes|"
        rf"flagged) (?:that )?"
        rf"(?:my|i|the|this|an?)\b[^.\n]{{0,60}}\b(?:error|mistake|wrong|incorrect|solution|answer|step|"
        rf"attempt|missed|forgot)",
        rf"\b(?:my|our) {_BEFORE} {_MINE}\b",
        rf"\bin (?:my|the) {_BEFORE} (?:solution|answer|attempt|response|submission|draft)\b",
        r"\bthe (?:previous|earlier|prior) (?:solution|answer|attempt|response|submission)"
        r" (?:was|had|is|made|missed|forgot|failed|contained|incorrectly|i gave)\b",
        r"\b(?:i (?:previously|earlier) (?:said|wrote|claimed|answered|made|computed|got|gave|stated|"
        r"thought|assumed))\b",
        r"\b(?:you(?:'re| are) (?:absolutely |quite |completely )?right,? (?:that|i|my|and|about|to point)|"
        r"as you (?:pointed out|noted|said|suggested|mentioned|correctly \w+)|thank(?:s|"
        r" you) for (?:pointing|the (?:correction|feedback|clarification|hint)|your (?:feedback|correction|"
        r"hint|help)))",
        r"\bi apologi[sz]e for (?:the|my)\b|\bsorry for (?:the|my) (?:mistake|error|confusion)|"
        r"\bmy (?:mistake|error|earlier mistake|previous error) was\b|\bcorrecting my (?:mistake|error|"
        r"answer|solution)\b",
        r"\b(?:here is|here's|this is|below is) (?:the|my|an?) (?:revised|corrected|updated|"
        r"improved) (?:solution|answer|attempt|response|version|code)\b",
        r"\b(?:the|my) (?:revised|corrected) (?:solution|answer|response|attempt) (?:is|follows|:)",
    )
]


def mentions_critique(answer: str) -> bool:
    """Whether an answer mentions its critique or a previous attempt.

    >>> mentions_critique("As the feedback notes, I forgot to carry the one.")
    True
    >>> mentions_critique("The feedback loop keeps the amplifier stable.")
    False
    """
    plain = " ".join(answer.replace("’", "'").replace("**", "").split())
    return any(form.search(plain) for form in _MENTIONS)
