"""Plain English to sample layers on where the caller knows the model's words and brings no texts.

Some are a line long and some a paragraph, since a layer's activations depend on that too.
"""

SENTENCES = (
    "A man is playing the guitar on a small stage while two children dance in front of him.",
    "The company said on Tuesday that profits fell by 12 percent in the third quarter.",
    "What is the capital of Australia, and how many people live there?",
    "I loved this film: the acting is superb, and the ending made me cry.",
    "Water boils at 100 degrees Celsius at sea level, but at a lower temperature in the mountains.",
    "Please call me back as soon as you can; I need to change my appointment.",
    "The president met the prime minister in Paris to discuss trade and security.",
    "Two dogs run across a field of snow.",
    "The patient was given 20 mg of the drug twice a day for six weeks.",
    "She opened the door quietly, looked around, and stepped into the dark room.",
    "How do I reset the password of my email account?",
    "The battle took place in 1814 near the river, where more than three thousand soldiers died.",
    "This phone is terrible. The battery lasts two hours and the screen broke after a week.",
    "A woman is slicing an onion in the kitchen.",
    "The committee will vote on the new law next month, according to a spokesman.",
    "In mathematics, a prime number is a natural number greater than one that is not a product of two smaller ones.",
    "Police arrested three men after a robbery at a bank in the city centre.",
    "Can you recommend a good restaurant near the station that is open on Sundays?",
    "The species is found in the forests of South America, where it feeds on insects and fruit.",
    "He scored twice in the second half, and his team won 3 to 1.",
    "The album was released in March and reached number four in the charts.",
    "Your order has been shipped and will arrive between Monday and Thursday.",
    "The cat sat on the roof and watched the birds.",
    "Scientists have found a new way to store energy from the sun and the wind.",
    "It was cold, it rained all day, and nobody wanted to go outside.",
    "The function returns an error if the file does not exist or cannot be read.",
    "Her first novel, written when she was only nineteen, is set in a village in Ireland.",
    "Shares of the technology group rose 3.4 % to $57.20 in early trading.",
    "People are waiting in line to buy tickets for the concert.",
    "Turn left at the church, go straight on for about a mile, and you will see the bridge.",
    "The museum has a large collection of paintings from the sixteenth century.",
    "An earthquake of magnitude 6.1 shook the coast early on Friday; no injuries were reported.",
    "My grandmother used to bake bread every Saturday morning.",
    "Add the eggs and the sugar, stir well, and bake for 40 minutes.",
    "The defendant claims that he was at home when the fire began.",
    "Who wrote the play, and when was it first performed in London?",
    "The service was slow, the food was cold and far too expensive.",
    "A boy in a red shirt jumps over a fence.",
    "The university was founded in 1636 and has about twenty thousand students.",
    "If you are not happy with the product, send it back within thirty days.",
    "The court rejected the appeal and ordered the firm to pay a fine of 2.5 million euros.",
    "Cells use proteins to carry signals from the outside to the nucleus.",
    "The train from Berlin to Munich takes about four hours.",
    "I do not think that this is a good idea, but let us try it anyway.",
    "The actor, who is best known for his role in a television series, was born in Canada.",
    "Rice, beans and corn are grown on most farms in the valley.",
    "A group of people are sitting around a table and eating dinner.",
    "The government wants to build 50,000 new homes by the end of the decade.",
    "This is one of the funniest shows that I have seen in years!",
    "The engine starts, but it stops again after a few seconds.",
    "According to the report, unemployment is at its lowest level since 2008.",
    "The moon moves around the earth once in about 27 days.",
    "A plane is landing at the airport in heavy fog.",
    "He was sentenced to five years in prison for fraud.",
    "Does anyone know whether the library is open during the holidays?",
    "The river flows north through three countries before it reaches the sea.",
    "The software update fixes several bugs and makes the application faster.",
    "She has been teaching history at the same school for more than twenty years.",
    "The two sides agreed to a cease-fire after weeks of fighting.",
    "A horse is running along the beach.",
    "The room was clean and quiet, the staff were friendly, and breakfast was excellent.",
    "Light travels faster than sound, so you see the flash before you hear the thunder.",
    "The mayor, a former teacher, promised better schools and cheaper buses.",
    "We are sorry that we could not help you this time; thank you for your patience.",
)
LENGTHS = (1,) * 8 + (3,) * 4 + (6,) * 4 + (10,) * 2
"""How many sentences each text has, one after another."""


def plain_texts() -> list[str]:
    """All sentences, in texts of LENGTHS."""
    remaining = iter(SENTENCES)
    return [" ".join(next(remaining) for _ in range(length)) for length in LENGTHS]
