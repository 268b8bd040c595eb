"""The words that episodes are made of: common words, measured quantities, invented words and names.

Everything comes in two disjoint halves: what training may use and what only the evaluation uses. Invented words of
the evaluation begin with onsets that training never puts at the start of a word; real words are split by list.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

T = TypeVar("T")


def listed(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


ONSETS = listed("b br c ch d dr f fl fr g gr h j k kl l m n p pl pr qu r s sh sp st t th tr v w y z")
HELD_OUT_ONSETS = listed("gl sk bl cr")
VOWELS = listed("a e i o u a e i o ai ea ia ou")
CODAS = ["", "", "", "n", "r", "l", "s", "m", "th", "nd", "rk", "x", "t", "ck", "st"]

COMMON = listed(
    """
    red blue green black white gold silver pink brown gray purple orange yellow small big tall short warm
    cold fast slow old new hot dry wet soft hard light dark high low long north south east west cat dog bird
    fish horse bear wolf fox lion tiger mouse sheep goat duck frog snake bee tree leaf root stone sand river
    lake hill forest rock rose oak pine corn rice apple pear plum lemon bread milk salt sugar cheese soup
    iron steel glass wood paper cloth lamp chair table door house road ship train car bike boat plane king
    queen farmer doctor teacher singer sailor baker pilot artist writer yes no true false good bad alpha
    beta gamma delta omega type kind group first second third one two three even odd positive negative
    normal rare common mild strong weak safe risk urban rural star moon sun cloud rain snow wind fire ice
    day night spring summer autumn winter morning evening happy sad angry calm active passive open closed
    left right upper lower inner outer male female adult child student worker healthy sick ripe raw fresh
    spoiled cheap costly full empty heavy quiet loud smooth rough sharp dull clean dirty simple complex
    early late junior senior public private domestic foreign pass fail accept reject spam ham fiction drama
    comedy sport science history music travel food health money nature bronze copper marble granite clay
    cotton wool silk leather
    """
)
RARE = listed(
    """
    violet maple falcon otter castle harbor candle velvet meadow planet comet anchor barrel ginger pepper
    walnut cedar tulip daisy salmon badger raven eagle turtle rabbit mint olive amber ivory crimson scarlet
    harsh gentle narrow broad shallow deep remote nearby ancient modern rapid steady humid frozen urgent
    routine legal medical tender bitter sour sweet
    """
)

HELD_OUT_COMMON = listed(
    """
    lantern walrus cobweb saddle trumpet biscuit helmet gravel thunder puzzle ladder blanket rocket
    hammer wagon marigold pelican lobster cactus bamboo dwarf giant royal humble tropical polar nocturnal
    fragile hollow crooked fluffy velocity mountain desert prairie swamp lagoon tundra canyon glacier
    """
)

QUANTITIES = listed(
    """
    length width height depth weight mass size age speed area volume count score rate level power angle
    temperature pressure density distance time cost price rank income load charge radius gain hardness
    brightness acidity humidity voltage current energy force span thickness diameter balance duration
    frequency amount share ratio index dose moisture noise signal grade usage
    """
)
PARTS = listed(
    """
    body wing tail head leaf stem root shell wheel engine base top left right inner outer front rear mean
    max min total net upper lower main side core edge fruit seed bark fin beak horn skin bone blade tank
    valve room wall roof monthly daily yearly average peak start final water soil air blood heart
    """
)
HELD_OUT_QUANTITIES = [
    "girth",
    "slope",
    "torque",
    "elasticity",
    "curvature",
    "tension",
    "opacity",
    "salinity",
    "altitude",
    "latency",
]
HELD_OUT_PARTS = listed("claw antler hull piston nozzle canopy crest ankle rotor lens")

THINGS = listed(
    """
    item sample object record case entry animal plant machine stone shell flower car house patient customer
    product material signal bird fish fruit insect tree house village star crystal coin metal wood
    """
)

OUTPUT_NAMES = listed(
    """
    label category kind type group species result verdict target output decision status outcome class_name
    predicted_label material quality tag topic response choice
    """
)

FIRST_NAMES = listed(
    """
    Anna Ben Clara Dan Ella Finn Grace Hugo Ivy Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Umar Vera
    Will Zoe Amir Bella Carl Dora Emil Fay Gus Hana Ian June Karl Lena Max Nina Otto Pia Ray Sara Tom Una
    Vic Wendy Yara Adam Lucy Mark Ruth Sofia Peter Mary John Liam Emma Alice Bob
    """
)
HELD_OUT_FIRST_NAMES = [
    "Bruno",
    "Celia",
    "Dmitri",
    "Edith",
    "Farid",
    "Gwen",
    "Heidi",
    "Igor",
    "Jonas",
    "Kira",
    "Lotte",
    "Marek",
    "Nadia",
    "Oscar",
]

FUNCTION_WORDS = listed(
    """
    the a an of to in on at by for from with and or not is are was were be has have had does do did it its
    this that these those he she they them his her their you your each every all more less than then now
    left many much how what which who where when why will can may must one given give gives answer question
    context passages passage facts fact search query text word words number numbers whole item list per line
    read find write name choose pick select decide classify predict label sort assign use using only based
    following below above examples example input output value values field fields measurement measurements
    make made makes gets get got buys bought finds found sells sold loses lost takes took uses eats ate
    spends bought adds shares splits divides equally into among there out up down back away next last after
    before later today day week morning evening some any other another time times total sum result compute
    evaluate solve problem step steps think by true false reasoning born lives lived works worked wrote
    written directed founded located based capital country city mayor river owner owned married mother
    father child spouse home house author director founder film book company organisation birthplace
    employer flows through stands lies leads led president friend friends group groups boxes bags equal
    twice half double short long exactly same copy repeat first last reverse order hop information needed
    need needs lookup look page about help helps task do
    """
)


def syllables(rng: Random, low: int = 1, high: int = 3, held_out: bool = False) -> str:
    """A pronounceable word of ``low`` to ``high`` syllables; the held-out ones begin with their own onsets."""
    parts = [rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.randint(low, high))]
    if held_out:
        parts[0] = rng.choice(HELD_OUT_ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS)
    word = "".join(parts)
    return word if len(word) > 2 else word + rng.choice("nrx")


def scrambled(rng: Random) -> str:
    """Letters in an order no rule has made, or the head of one common word with the tail of another.

    They bring every piece of the vocabulary into every place, so that new words of any language can be copied.
    """
    if rng.random() < 0.5:
        letters = ""
        for _ in range(rng.randint(3, 9)):
            vowel = rng.random() < (0.7 if letters and letters[-1] not in "aeiouy" else 0.2)
            letters += rng.choice("aeiouy" if vowel else "bcdfghjklmnpqrstvwxz")
        return letters
    head, tail = rng.choice(COMMON + RARE), rng.choice(COMMON + RARE)
    return head[: rng.randint(1, max(1, len(head) - 1))] + tail[rng.randint(1, len(tail) - 1) :]


def invented(rng: Random, low: int = 1, high: int = 3, held_out: bool = False) -> str:
    """A word that no dictionary has: pronounceable syllables, ``low`` to ``high`` of them, or scrambled letters."""
    if not held_out and rng.random() < 0.35:
        while (word := scrambled(rng)).startswith(tuple(HELD_OUT_ONSETS)) or word in HELD_OUT_COMMON:
            pass
        return word
    return syllables(rng, low, high, held_out)


def proper_name(rng: Random, held_out: bool = False, words: int | None = None) -> str:
    """An invented proper name of one or two capitalized words."""
    count = words if words is not None else (2 if rng.random() < 0.4 else 1)
    return " ".join(invented(rng, 1, 2, held_out).capitalize() for _ in range(count))


def first_name(rng: Random, held_out: bool = False) -> str:
    """A person's first name, real most of the time."""
    if rng.random() < 0.25:
        return proper_name(rng, held_out, 1)
    return rng.choice(HELD_OUT_FIRST_NAMES if held_out else FIRST_NAMES)


def class_label(rng: Random, held_out: bool = False, easy: bool = False) -> str:
    """The name of a class or category: a common word, an invented one, or now and then a letter or two words."""
    common = HELD_OUT_COMMON if held_out else COMMON + RARE
    draw = rng.random()
    if easy:
        return rng.choice(common)
    if draw < 0.36:
        return rng.choice(common)
    if draw < 0.9:
        word = invented(rng, 1, 4, held_out)
        return word.capitalize() if rng.random() < 0.15 else word
    if draw < 0.95:
        return rng.choice("ABCDEFGH")
    return rng.choice(common) + rng.choice("_- ") + rng.choice(common)


def quantity(rng: Random, held_out: bool = False, easy: bool = False) -> str:
    """The identifier of a measured field: ``height``, ``wing_span``, ``dorvel_rate``, ``x3``."""
    base = rng.choice(HELD_OUT_QUANTITIES if held_out else QUANTITIES)
    draw = rng.random()
    if easy or draw < 0.35:
        return base
    if draw < 0.85:
        part = rng.choice(HELD_OUT_PARTS if held_out else PARTS)
        return (part if rng.random() < 0.6 else invented(rng, 1, 2, held_out)) + "_" + base
    if draw < 0.95:
        return invented(rng, 1, 3, held_out)
    return rng.choice("xfv") + str(rng.randint(1, 9))


def quantities(rng: Random, count: int, held_out: bool = False, easy: bool = False) -> list[str]:
    """``count`` different field names; real tables often share words among them (``wing_length``, ``wing_width``)."""
    if count < 2 or easy or rng.random() < 0.55:
        return distinct(lambda: quantity(rng, held_out, easy), count)
    bases = distinct(lambda: rng.choice(HELD_OUT_QUANTITIES if held_out else QUANTITIES), 3)
    parts = distinct(
        lambda: (
            invented(rng, 1, 2, held_out) if rng.random() < 0.5 else rng.choice(HELD_OUT_PARTS if held_out else PARTS)
        ),
        3,
    )
    names = [f"{part}_{base}" for part in parts[: 2 + (count > 4)] for base in bases[: 2 + (count > 4)]]
    if rng.random() < 0.5:
        rng.shuffle(names)
    return names[:count]


def output_name(rng: Random) -> str:
    """The name of an output field: ``answer`` most of the time."""
    draw = rng.random()
    if draw < 0.7:
        return "answer"
    return rng.choice(OUTPUT_NAMES) if draw < 0.95 else invented(rng, 1, 2)


def distinct(draw: Callable[[], T], count: int) -> list[T]:
    """``count`` different values of ``draw()``, in the order they came."""
    found: list[T] = []
    while len(found) < count:
        value = draw()
        if value not in found:
            found.append(value)
    return found
