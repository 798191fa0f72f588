"""Pairs of requests that look alike and differ in meaning, by what changes it.

The guard of similar requests was written with the even pairs of each kind in view (`tuned`); the odd ones were held out
(`held_out`) and measure how well its rules carry over.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple


class ChangedMeaning(NamedTuple):
    """Two requests that must not share an answer."""

    kind: str
    one: str
    other: str


_PAIRS: Final = {
    "negation": """
Is parking allowed here on Sundays? | Is parking not allowed here on Sundays?
Which countries are members of NATO? | Which countries are not members of NATO?
Can I take ibuprofen with food? | Can't I take ibuprofen with food?
The server restarts after an update. | The server doesn't restart after an update.
Show me recipes with nuts. | Show me recipes without nuts.
I always lock the door. | I never lock the door.
Are there any side effects of this vaccine? | Are there no side effects of this vaccine?
Which plants need sunlight? | Which plants don't need sunlight?
Send the report to everyone. | Send the report to everyone except Tom.
Start the backup job at midnight. | Stop the backup job at midnight.
Why should I trust this website? | Why shouldn't I trust this website?
Does the warranty cover water damage? | Does the warranty not cover water damage?
Which animals can fly? | Which animals can't fly?
Is there a train on Christmas day? | Is there no train on Christmas day?
Explain why the sky is blue. | Explain why the sky isn't blue.
Passengers must wear a seat belt. | Passengers need not wear a seat belt.
How to bake a cake with eggs | How to bake a cake without eggs
The test that failed did not block the release. | The test that did not fail blocked the release.
Write a story in which the hero wins. | Write a story in which the hero never wins.
Are employees required to work on weekends? | Aren't employees required to work on weekends?
Both answers are correct. | Neither answer is correct.
All of the options work on Linux. | None of the options work on Linux.
List foods that are safe for dogs. | List foods that are unsafe for dogs.
Is the function reversible? | Is the function irreversible?
Is it possible to travel back in time? | Is it impossible to travel back in time?
Did the user agree to the terms? | Did the user disagree with the terms?
Is this expense deductible? | Is this expense non-deductible?
Which results are consistent with the theory? | Which results are inconsistent with the theory?
He will call unless it rains. | He will call if it rains.
Customers who paid get a refund. | Customers who have not paid get a refund.
Recommend a phone that has a headphone jack. | Recommend a phone that lacks a headphone jack.
The door was locked. | The door was unlocked.
""",
    "opposite": """
How do I increase the font size? | How do I decrease the font size?
How can I enable dark mode? | How can I disable dark mode?
What should I eat before a run? | What should I eat after a run?
When should I buy gold? | When should I sell gold?
What is the minimum age to vote? | What is the maximum age to vote?
Who was the first president of France? | Who was the last president of France?
How do I fix a hot bedroom? | How do I fix a cold bedroom?
How do I open a bank account? | How do I close a bank account?
How do I upload a file to the server? | How do I download a file from the server?
What is the tallest mountain in Europe? | What is the smallest mountain in Europe?
How do I install Docker on Ubuntu? | How do I uninstall Docker on Ubuntu?
What are the pros of nuclear power? | What are the cons of nuclear power?
How do I mute a conversation? | How do I unmute a conversation?
Is the market bullish today? | Is the market bearish today?
Who won the final in Madrid? | Who lost the final in Madrid?
How do I import contacts from Gmail? | How do I export contacts from Gmail?
What is the best laptop for students? | What is the worst laptop for students?
How do I turn on the lights? | How do I turn off the lights?
Is it legal to own a crossbow? | Is it illegal to own a crossbow?
What causes high blood pressure? | What causes low blood pressure?
How do I add a user to the group? | How do I remove a user from the group?
Which stars are older than the sun? | Which stars are younger than the sun?
How can I gain weight quickly? | How can I lose weight quickly?
Sort the list in ascending order. | Sort the list in descending order.
What are the symptoms of too much iron? | What are the symptoms of too little iron?
How to encrypt a file with OpenSSL | How to decrypt a file with OpenSSL
When does the tide come in? | When does the tide go out?
Find the cheapest hotel in Rome. | Find the most expensive hotel in Rome.
How do I lock my screen? | How do I unlock my screen?
Why did the dollar rise against the yen? | Why did the dollar fall against the yen?
Show me the newest messages. | Show me the oldest messages.
Who is the youngest player in the team? | Who is the oldest player in the team?
How do I zoom in on a map? | How do I zoom out on a map?
Accept all invitations from Paul. | Decline all invitations from Paul.
Is the water deep enough for diving? | Is the water shallow enough for diving?
Does coffee cause headaches? | Does coffee cure headaches?
""",
    "name": """
What is the capital of France? | What is the capital of Spain?
Who is the mayor of Hamburg? | Who is the mayor of Munich?
How old is Taylor Swift? | How old is Ariana Grande?
How do I reset an iPhone? | How do I reset a Pixel?
Is the museum open on Monday? | Is the museum open on Tuesday?
What is the weather like in May? | What is the weather like in June?
How do I reverse a string in java? | How do I reverse a string in go?
Where is the nearest train station? | Where is the nearest bus station?
Does ibuprofen interact with alcohol? | Does aspirin interact with alcohol?
Who wrote Hamlet? | Who wrote Macbeth?
Translate this text into French. | Translate this text into Italian.
How many calories are in an apple? | How many calories are in a banana?
What is the population of north korea? | What is the population of south korea?
Explain the rules of chess. | Explain the rules of checkers.
How do I deploy to AWS? | How do I deploy to Azure?
What is the exchange rate of the euro? | What is the exchange rate of the yen?
Summarize the first act of Othello. | Summarize the first act of Hamlet.
When was Microsoft founded? | When was Apple founded?
How long do cats live? | How long do dogs live?
Is gluten in barley? | Is gluten in rice?
How do I center a div with flexbox? | How do I center a div with grid?
What language do people speak in Brazil? | What language do people speak in Chile?
What did Einstein say about time? | What did Newton say about time?
Recommend a restaurant in Lisbon. | Recommend a restaurant in Porto.
What is the speed of light? | What is the speed of sound?
How do I cook pasta? | How do I cook rice?
""",
    "direction": """
Book a train from Berlin to Hamburg. | Book a train from Hamburg to Berlin.
Translate English to German. | Translate German to English.
Is Python faster than Java? | Is Java faster than Python?
Convert kilometers to miles. | Convert miles to kilometers.
Is Anna older than Ben? | Is Ben older than Anna?
Did Brazil beat Germany? | Did Germany beat Brazil?
How do I convert JSON to YAML? | How do I convert YAML to JSON?
Does Alice owe Bob money? | Does Bob owe Alice money?
Subtract tax from income. | Subtract income from tax.
How do I migrate from MySQL to Postgres? | How do I migrate from Postgres to MySQL?
Can dogs chase cats? | Can cats chase dogs?
Translate this poem from French into Dutch. | Translate this poem from Dutch into French.
Why did Rome conquer Greece? | Why did Greece conquer Rome?
Is 5 km longer than 5 miles? | Is 5 miles longer than 5 km?
Does stress cause insomnia? | Does insomnia cause stress?
Replace tabs with spaces. | Replace spaces with tabs.
How much does a gallon weigh in pounds? | How many gallons are in a pound?
Copy files from my laptop to the server. | Copy files from the server to my laptop.
How do I cast a float to an int in C? | How do I cast an int to a float in C?
I owe you an apology. | You owe me an apology.
""",
    "quantity": """
Give me one reason to learn Rust. | Give me two reasons to learn Rust.
Reduce the recipe to half. | Reduce the recipe to a third.
Double the recipe for pancakes. | Halve the recipe for pancakes.
What is the second largest city in Japan? | What is the third largest city in Japan?
Plan a trip of two weeks. | Plan a trip of three weeks.
What can I do with a hundred dollars? | What can I do with a thousand dollars?
Write a paragraph about bees. | Write a page about bees.
All students passed the exam. | Some students passed the exam.
Who came first in the marathon? | Who came second in the marathon?
The daily dose of vitamin D | The weekly dose of vitamin D
Few people know this fact. | Many people know this fact.
Tell me a single joke. | Tell me a dozen jokes.
""",
    "unit": """
How tall is the tower in meters? | How tall is the tower in feet?
Is 20 mg a safe dose? | Is 20 g a safe dose?
What is 30 degrees Celsius? | What is 30 degrees Fahrenheit?
How long is 90 minutes? | How long is 90 seconds?
What will $50 buy? | What will €50 buy?
Is -5 a good temperature for skiing? | Is 5 a good temperature for skiing?
How many bits are in 4 KB? | How many bits are in 4 MB?
Remind me at 8 am. | Remind me at 8 pm.
""",
    "role": """
Who wrote the report? | Who read the report?
Who founded the company? | Who sold the company?
What does a buyer need to sign? | What does a seller need to sign?
What are the duties of an employer? | What are the duties of an employee?
Can he visit his children? | Can she visit her children?
When did Mozart die? | Where did Mozart die?
Why does the engine stall? | When does the engine stall?
Who is the president of Peru? | Who was the president of Peru?
How do I create a table in Excel? | How do I find a table in Excel?
Am I liable for the damage? | Are you liable for the damage?
What must a tenant pay for? | What must a landlord pay for?
Should I take vitamin C? | Can I take vitamin C?
""",
    "added": """
Is it safe to take ibuprofen? | Is it safe to take ibuprofen while pregnant?
Find a hotel in Rome. | Find a cheap hotel in Rome.
List the employees of the company. | List the former employees of the company.
How do I boil an egg? | How do I boil an egg at high altitude?
What is the fastest animal? | What is the fastest land animal?
Explain quantum computing. | Explain quantum computing to a child.
How do I sort a list in Python? | How do I sort a list in Python in place?
Write a poem about rain. | Write a short poem about rain.
""",
}


def _all() -> Iterator[tuple[int, ChangedMeaning]]:
    for kind, lines in _PAIRS.items():
        for number, line in enumerate(lines.strip().splitlines()):
            one, other = line.split(" | ")
            yield number, ChangedMeaning(kind, one, other)


def tuned() -> list[ChangedMeaning]:
    """Return the pairs that were in view when the guard was written."""
    return [pair for number, pair in _all() if number % 2 == 0]


def held_out() -> list[ChangedMeaning]:
    """Return the pairs that were not."""
    return [pair for number, pair in _all() if number % 2]
