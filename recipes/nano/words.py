"""The words that episodes are made of: common words, measured quantities, invented words and names.

Everything comes in two disjoint parts: what training may use and what only the evaluation uses. Invented words of
the evaluation have beginnings that no invented word of training has; real words are split by list.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

T = TypeVar("T")


def listed(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


ONSETS = listed("b bl br c ch cr d dr f fl fr g gl gr h j k kl l m n p pl pr qu r s sh sk sp st t th tr v w y z")
HELD_OUT_BEGINNINGS = listed(
    """
    bla ble bli blo cra cre cri cro gla gli glo glu ska ske sko sku ba bro cho de dri fi fle go gri ha ju ka kle le
    mi no plo pra qua ra se sha spe stu ti tro vo wu yo za
    """
)
NEVER = frozenset(listed("iris petal sepal setosa wine malic proline benign weng hotpot"))
"""Words of real data sets, which chance must not spell."""
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

ENGLISH = listed(
    """
    ability able accident account acid across action actor address advice affair afternoon agency agreement aircraft
    airport alarm album alert alone along already although amazing ancestor angel animal announce annual answer
    anxious apartment appeal appearance application appoint approach approve april architect argue arm army around
    arrange arrest arrival arrow article aside assembly assist assume athlete atlantic attack attempt attend
    attention attract audience august author automatic available avenue average avoid award aware awful baby
    background bacteria balcony ball bank banner bar bargain barrier base basic basket basin battle beach bean
    beauty become bedroom begin behave behavior being belief bell belong belt bench benefit beside better beyond
    bicycle billion birth blame blind block blood board body bomb bone border bottle bottom bowl brain branch brave
    break breakfast breath brick bridge brief bright bring broken brother brush budget build building bullet burden
    burn bus bush business button cabin cable calculate calendar camera camp campaign canal cancel candidate capable
    captain capture carbon card care career careful carpet carry case cash category cause ceiling celebrate cell
    center central century ceremony certain chain chairman challenge chamber champion chance change channel chapter
    character charge charity chart chase chemical chest chicken childhood choice church circle circuit citizen civil
    claim class classic climate climb clinic clock close club clue coach coal coast code coffee collapse collect
    college colony color column combine comfort command comment commerce commission committee community company
    compare compete complain complaint complete computer concept concern concert conclude condition conduct
    conference confirm conflict confuse congress connect connection conscious consider constant construct consume
    contact contain content contest context continue contract contrast control convert cook copy corner correct cost
    council count country county couple courage course court cousin cover crack craft crash create creature credit
    crew crime crisis critic crop cross crowd crucial cruel culture cup current curtain curve custom customer cycle
    daily damage dance danger data database date daughter dawn deal death debate debt decade decent decide decision
    declare decline decrease defeat defend define degree delay deliver delivery demand democracy deny department
    depend deposit derive describe deserve design desk despite destroy detail detect determine develop device devote
    dialogue diet differ difference difficult digital dinner direct direction director disagree disaster discover
    discuss disease dish dismiss display distance distinct district divide division document dollar domain donate
    double doubt dozen draft dragon draw dream dress drift drink drive drop drug duty eager earn earth ease eastern
    economy edge edit edition editor educate education effect efficient effort egg eight either elect election
    electric element eleven email embrace emerge emotion emperor empire employ employee enable encounter encourage
    enemy engage engineer enjoy enormous enough ensure enter entire entrance envelope equal equipment error escape
    essay establish estate estimate ethnic evaluate event evidence evolve exact exam example excellent except
    exchange excite excuse execute exercise exhibit exist expand expect expense expensive experience experiment
    expert explain explore export express extend extent external extra extreme fabric face facility factor factory
    faculty fair faith fame family famous fantasy farm fashion father fault favor fear feature federal fee feedback
    feel fellow fence festival fever fiber field fifteen fight figure file final finance finger finish firm fit five
    fix flag flame flash flat flavor fleet flexible flight float flood floor flow focus folk follow football force
    forever forget formal format former formula fortune forum forward foundation founder four frame freedom freeze
    frequent friend frontier fuel function fund funny furniture future gallery game garage garden gas gate gather
    gender general generate genetic gentleman genuine gesture ghost gift girl glad global glory goal golden golf
    govern government grade grain grand grant graph grass grateful grave great greet ground grow growth guard guess
    guest guide guilty guitar habit hair hand handle happen hardly harvest hate head hear heart heaven height hello
    herb hero hide highlight highway hire historic hobby holiday holy honest honor hope horizon hospital host hotel
    hour household housing however huge human hundred hunger hunt hurry husband ideal identify identity ignore
    illegal illness image imagine impact import important impose impossible impress improve incident include
    increase independent industry infant inform initial injury innocent inquiry insect inside insight insist inspect
    inspire install instance instant instead institute instruct insurance intend interest internal international
    internet interval interview invest invite involve island issue item jacket jail january jazz jewel job join
    joint joke journal journey judge juice july jump jungle jury justice keen keep keyboard kick kidney kill kitchen
    knee knife knock knowledge label labor lady land landscape lane language large laugh launch law lawyer layer
    lazy league learn least lecture legend leisure lesson letter liberal liberty library license lift limit link
    liquid literature little loan local location lock logic lonely loose loyal luck lunch luxury machine magazine
    magic mail main maintain major majority manage manager manner manual manufacture map march margin marine mark
    market marriage master match material math matter maximum mayor meal meaning measure meat mechanic media medal
    medicine medium meet member memory mental mention menu merchant message metal method metro middle midnight might
    military million mind mineral minimum minister minor minority minute miracle mirror miss mission mistake mixture
    mobile model moment monitor monkey monster month mood moral mortgage motion motor mount mouth move movement
    movie multiple murder muscle museum mutual mystery narrative nation national native natural neck neighbor nerve
    network neutral never news newspaper nice nine nobody noble noise nothing notice notion novel november nuclear
    nurse object objective obtain obvious occasion occupy occur ocean october offense offer office officer official
    often oil online opera operate operation opinion opponent opportunity oppose option oral orbit orchestra
    ordinary organ organic organize origin original otherwise ought outcome output outside overall owner oxygen pace
    package page pain paint painter palace panel panic parade parent park parliament partner party passage passenger
    passion past path patience patient pattern pause payment peace peak pencil pension people perceive percent
    perfect perform perhaps permanent permit person personality perspective phase phone photo phrase physical piano
    picture piece pilgrim pioneer pipe pitch place plant plastic plate platform play player pleasant please pleasure
    plenty plot pocket poem poet poetry point poison police policy polite political pool popular population portion
    portrait position possess possible post potato potential pottery pound poverty powder power practice praise
    prayer precise predict prefer premium prepare presence present preserve press pretty prevent previous primary
    prime prince princess principle print prior prison prize probably procedure process product production
    profession professor profile profit program progress project promise promote proof proper property propose
    prospect protect protein protest proud prove provide province provision publish pull pump punish purchase pure
    purpose pursue push quality quarter quest quick quit quite quote race radical radio rail random range rather
    reach react reader reality realize reason rebel recall receive recent recipe recommend record recover recruit
    reduce refer reflect reform refuse regard regime region register regret regular relate relation relative relax
    release relevant relief religion rely remain remark remember remind remove rent repair repeat replace reply
    report represent republic request require rescue research reserve resident resist resolve resort resource
    respect respond response restaurant restore restrict retail retain retire retreat return reveal revenue reverse
    review revolution reward rhythm rich ride rifle rise rival robot role romance romantic round route rubber rude
    ruin rule rumor rush sacred sacrifice safety sail salary sale sample satellite satisfy save savings scale scene
    schedule scheme scholar school scientist screen script search season seat secret section sector secure security
    seek segment select senate sense sensitive sentence sentiment separate september sequence series serious servant
    serve service session settle seven several severe shadow shape share shelter shift shine shock shop shore
    shoulder show shower sibling sight silence silent similar since single sister site situation sketch skill slave
    sleep slide slight smart smell smile smoke soccer social society software soldier solid solution somebody source
    southern space speak special species specific speech spend sphere spirit split sponsor spot spread square stable
    stadium staff stage stake stand standard state statement station statue status stay steal stem still stock
    stomach storage store storm story straight strange stranger strategy stream street strength stress stretch
    strict strike string structure struggle studio study stupid style subject submit subscribe succeed success
    sudden suffer suggest suit summary super supply support suppose supreme surface surgery surprise surround survey
    survive suspect sustain swear sweep swim switch symbol sympathy system tackle talent target task taste tax teach
    team technical technique technology telephone television temple tenant tendency tennis terminal territory
    terrible test thank theater theme theory therapy thick thin thirty threat throat throne ticket tie tight title
    tobacco together tomorrow tone tongue tonight tool tooth topic tough tour tourist tournament toward towel tower
    track trade tradition traffic tragedy transfer transform translate transport trash treasure treat treatment
    treaty trend trial tribe trick trip troop trouble truck trust truth tunnel twelve twenty twist typical ugly
    uncle undergo understand union unique unit unite universe university unless unlike until update upgrade upset
    urge user usual vacation valid valley valuable vanish vast vegetable vehicle venture verdict version vessel
    veteran victim victory video view village violence virtue virus visible vision visit visitor visual vital vocal
    voice volunteer vote wage waist wait walk wall wander warn warrior wash waste watch wave wealth weapon wear
    wedding weekend welcome welfare western whale wheat wheel whisper wide widow wild window winner wisdom wish
    witness wonder wooden workshop world worry worth wound wrap wrong yard yesterday yield young youth zone
    """
)
"""Everyday words beyond the common ones: values and labels now and then, and what pieces of words are learned from."""

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
    """A pronounceable word of ``low`` to ``high`` syllables; the held-out ones have their own beginnings."""
    while True:
        parts = [rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.randint(low, high))]
        word = "".join(parts)
        if len(word) < 3:
            word += rng.choice("nrx")
        if word.startswith(tuple(HELD_OUT_BEGINNINGS)) == held_out and word not in NEVER:
            return word


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
    head, tail = rng.choice(COMMON + RARE + ENGLISH), rng.choice(COMMON + RARE + ENGLISH)
    return head[: rng.randint(1, max(1, len(head) - 1))] + tail[rng.randint(1, len(tail) - 1) :]


def invented(rng: Random, low: int = 1, high: int = 3, held_out: bool = False) -> str:
    """A word that no dictionary has: pronounceable syllables, ``low`` to ``high`` of them, or scrambled letters."""
    if not held_out and rng.random() < 0.3:
        while (word := scrambled(rng)).startswith(tuple(HELD_OUT_BEGINNINGS)) or word in {*HELD_OUT_COMMON, *NEVER}:
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
    if draw < 0.4:
        return rng.choice(common if held_out or draw < 0.2 else ENGLISH)
    if draw < 0.9:
        word = invented(rng, 1, 4, held_out)
        return word.capitalize() if rng.random() < 0.15 else word
    if draw < 0.95:
        return rng.choice("ABCDEFGH")
    return rng.choice(common) + rng.choice("_- ") + rng.choice(common)


def _base(rng: Random, held_out: bool, easy: bool = False) -> str:
    """What is measured; in training now and then any word, as most words take more than one token."""
    draw = rng.random()
    if held_out or easy or draw < 0.6:
        return rng.choice(HELD_OUT_QUANTITIES if held_out else QUANTITIES)
    return rng.choice(ENGLISH) if draw < 0.8 else invented(rng, 1, 3)


def quantity(rng: Random, held_out: bool = False, easy: bool = False) -> str:
    """The identifier of a measured field: ``height``, ``wing_span``, ``dorvel_rate``, ``x3``."""
    base = _base(rng, held_out, easy)
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
    bases = distinct(lambda: _base(rng, held_out), 3)
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
