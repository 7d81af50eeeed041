"""The wording of critiques: one set of sentences for tuning, another for the reported figure.

{ref} is the reference, {told} a form of it, {part} most of it, {wrong} the student's answer, {q} a number of
the question, {n} a small number. The halves have no sentence in common.
"""

from __future__ import annotations

VERBATIM = {
    "dev": [
        "The correct answer is {ref}.",
        "You wrote {wrong}, but it should be {ref}.",
        "Wrong. {ref} is what was expected here.",
        "The answer “{wrong}” is not right; the right one is **{ref}**, so read the question again.",
        "Good start, but the last step slips. You should have reached {ref}.",
        "Compare your result with {ref} and see where they differ.",
        "Instead of {wrong}, write {ref}.",
        "I would have accepted {ref} only.",
        "{REF} would be right.",
        "Your method is sound. With care it gives \\boxed{{ref}}.",
    ],
    "test": [
        "Nope! It's {ref}. Have another look at how you got there.",
        "Not quite: the expected output reads `{ref}` and yours reads `{wrong}`.",
        "Feedback: incorrect. Expected: {ref}. Got: {wrong}.",
        "I can see why you thought so, yet the key gives {ref} for this one, and there is no way around it.",
        "This misses the point. What the question is after is {ref}, nothing else.",
        "Try again, and this time end on {ref}.",
        "The solution ({ref}) follows directly once you drop your second assumption.",
        'Student\'s answer is wrong. Reference: "{ref}".',
        "Almost. Swap out what you have for {ref} and you are done.",
        "Two out of ten. We were looking for {ref} here; your answer shows that you guessed.",
        "You're overthinking it – {ref} is the answer.",
        '"{wrong}" cannot be correct, because {ref} is.',
    ],
}
VERBATIM_CHOICE = {
    "dev": [
        "Option {ref} is right.",
        "The answer is {ref}, not {wrong}.",
        "You should have picked {ref}.",
        "Choose {ref} here.",
        "{ref} is the correct choice, because the others fail the test in the question.",
    ],
    "test": [
        "Pick {ref} next time.",
        "It is ({ref}) that fits, as the definition shows.",
        "Correct option: {ref}.",
        "You went for {wrong}; only {ref} satisfies every condition.",
        "Read all four again and you'll see that {ref} is correct.",
        "Not {wrong} but {ref}.",
        "The right letter would have been {ref}.",
    ],
}
NUMBER = {
    "dev": [
        "The correct answer is {told}.",
        "You should get {told}, not {wrong}.",
        "Check the last step: the result is {told}.",
        "It is {told} in all, so something went missing in your sum.",
        "Your answer is too far off; it comes to {told}.",
        "Had you carried the digit, you would have found {told}.",
        "{wrong} cannot be right. Think of {told}.",
    ],
    "test": [
        "Redo it – the thing works out at {told}.",
        "What you want at the end is {told}.",
        "Your {wrong} is off. I make it {told}.",
        "The book says {told}. Where did the difference come from?",
        "A careful count leaves you with {told}, which is not what you have.",
        "Wrong order of steps! Done properly you land on {told}.",
        "Hint: the final figure is {told}.",
        "If you check with a calculator you will see {told}.",
        "Expected value: {told}. Please show your working.",
    ],
}
SPELLED = {
    "dev": [
        "Spell it like this: {told}.",
        "It goes {told}.",
        "You mixed up the order. It should be {told}.",
        "{told} – that is how it is written.",
        "Look at it piece by piece: {told}.",
    ],
    "test": [
        "Write, one after another: {told}.",
        "Your answer is garbled. Piece by piece it reads {told}.",
        "I'll help you out: {told}.",
        "Not right yet. {told}.",
        "The order matters here, and the right order is {told}.",
        "Watch closely, {told}, and nothing more.",
    ],
}
PARTIAL = {
    "dev": [
        "The answer has something to do with {part}.",
        "You forgot to say {part}.",
        "Most of it should read: {part}",
        "A better answer would contain {part}, and a little more.",
    ],
    "test": [
        "Here is the bulk of it, the rest you can fill in: {part}",
        "Where is the bit about {part}?",
        "You need something along the lines of: {part} …",
        "I expected to read {part} somewhere in there.",
        "One hint, then you are on your own. It involves {part}.",
        "Incomplete and off track. Key content that is missing: {part}.",
    ],
}
QUOTES_WRONG = {
    "dev": [
        "Your answer {wrong} is not correct. Check the second step.",
        "You wrote “{wrong}”, which does not follow from what is given.",
        "{wrong} can be ruled out at once if you read the question again.",
        "How did you get {wrong}? Show the steps in between.",
        "I don't think that {wrong} answers what was asked.",
    ],
    "test": [
        "Hmm, {wrong}? That would contradict the very first condition.",
        "The response states {wrong}. This is false, and no justification is offered for it.",
        'Your final line says "{wrong}", yet nothing above it leads there.',
        'Score 0. "{wrong}" shows a common confusion between two related ideas.',
        "Let me quote you: {wrong}. Can you explain why? I doubt it holds.",
        "Cross out {wrong} and begin again from the definitions.",
        "So close, and yet {wrong} is not it.",
    ],
}
QUOTES_QUESTION = {
    "dev": [
        "You did not use the {q} that the question gives.",
        "Read the question again: it says {q}, and your answer ignores that.",
        "What happens to the {q} in your second step?",
        "The {q} has to be dealt with before anything else.",
    ],
    "test": [
        "Start from {q}. What does the task ask you to do with it?",
        "Have you noticed the {q} in the text? It doesn't appear anywhere in your work.",
        "The task mentions {q}, so your result must depend on it; yours doesn't.",
        "You treated {q} as if it came last. Order matters.",
        "The first thing given is {q}. Underline it, then plan.",
        "Is {q} really what you think it is? Look once more at how the problem puts it.",
    ],
}
WHERE = {
    "dev": [
        "The error is in the second step: you added where you should have multiplied.",
        "The first half is fine. The mistake is near the end.",
        "You have the right idea, but a sign is wrong.",
        "Line 3 does not follow from line 2.",
        "One of the two middle characters is wrong, and the length is right.",
        "Check your units, then do the last conversion again.",
        "Characters 2 and 4 are wrong.",
    ],
    "test": [
        "Somewhere between your opening and your conclusion a factor goes missing. Find it.",
        "Everything up to the comma is okay; what comes after it isn't.",
        "It should have more characters than you gave. The last one is wrong as well.",
        "Your reasoning is valid but starts from the wrong fact. Look up the fact.",
        "The order of your items is off in two places, both towards the end.",
        "An off-by-one slip, I'd say. Test it on the smallest case you can think of.",
        "You answered a different question from the one that was asked. Which words did you skip?",
        "Syntax is fine, logic is not. Trace it by hand with an empty input.",
        "That is a person or thing from the wrong century altogether.",
        "Careful with the minus sign when you move terms to the other side.",
        "Try to eliminate two of the possibilities first; you rejected one too early.",
        "The word you give doesn't exist. Compare it letter by letter with what was asked.",
    ],
}
COMMON = {
    "dev": [
        "The museum in your text is never named. Say more about the opening and the reasons.",
        "Return something in every case. Your function stops at the first element of the list.",
        "Does this hold for every value? Think of the early steps, then of the late ones.",
        "A good summary says who does what, and when. Yours says neither in a clear way.",
        "The left side of your argument is fine, the right side is not.",
        "Select fewer columns, and think about where the condition belongs.",
    ],
    "test": [
        "People should not have to guess what you mean. Who lives where, and what should they not do?",
        "The answer needs to name the people involved and say what government has to do with it.",
        "What do time and systems have to do with each other? Your sentence never says.",
        "In your function the loop never ends. When should it return, and what is a for?",
        "Do you need the count of all orders or of each group? Say by which column.",
        "Work, pay, strike: the words are there, but a headline needs an event.",
        "The motion of the planets is not the point; ask what balances what.",
        "Nothing in the question asks about the leg as a whole; list the bones one by one.",
        "That name is a file pattern, not a folder. What does find look for, and where?",
        "A computer or a company is not a person. Who did the work of inventing it, and with whom?",
        "You started the sentence with the right word and lost the thread. What follows from it over time?",
    ],
}
INSIDE = {
    "dev": [
        "Step {n} is wrong.",
        "In line {n} you drop a term.",
        "You made {n} mistakes, most of them careless.",
        "See equation ({n}) again.",
        "Part {n} of your answer is missing a reason.",
    ],
    "test": [
        "Re-examine step {n}; the rest hangs on it.",
        "I counted {n} unjustified claims in your text.",
        "Your sentence number {n} contradicts the one before.",
        "On page {n} of the notes there is a similar example.",
        "Rule {n} does not apply here, since its premise fails.",
        "Bullet {n} repeats the question. Remove it, and justify the others.",
        "Of your {n} lines, the final two are the problem.",
        "Test {n} fails with your code. Run it and read the trace.",
    ],
}
INSIDE_CHOICE = {
    "dev": [
        "Your step {ref} is wrong.",
        "In part {ref} of your argument a reason is missing.",
        "Point {ref} and point E of your sketch are the same.",
    ],
    "test": [
        "Section {ref} of your working contradicts section E.",
        "Your case {ref} is not exhaustive.",
        "A reason is needed. A guess is not a reason.",
        "Claim {ref}, as you label it, has no support in the passage.",
        "Be careful: vitamin {ref}, hepatitis {ref}, grade {ref} – labels prove nothing.",
    ],
}
INSIDE_LONG = {
    "dev": ["Your {longer} is far too large.", "Where does {longer} come from?"],
    "test": [
        "How can there be a {longer} in your table?",
        "Something blew up: {longer} is beyond any reasonable range.",
        "The intermediate {longer} is neither given nor derived.",
    ],
}
