"""The sentences that word problems of the training are told with; those of the evaluation are in ``arithmetic``.

``{n}`` and ``{m}`` are two people, ``{o}`` is what is counted, ``{a}`` and ``{b}`` are numbers; the other placeholders
take any verb of their list in ``VERBS``. The running number is what ``{n}`` has. Who of two people comes first tells
whether a verb of giving or taking adds or subtracts, so the same verbs stand in ``PLUS`` and in ``MINUS``.
"""

from __future__ import annotations

from recipes.nano.words import listed

VERBS = {
    "has": listed("has owns holds carries had owned held carried possesses possessed"),
    "gets": listed(
        """
        buys finds gets picks receives makes earns bakes gathers wins adds takes orders draws builds obtains gains
        acquires borrows chooses fetches grabs discovers produces digs saves rents paints imports
        bought found got picked received made earned baked gathered won added took ordered drew built obtained gained
        acquired borrowed chose fetched grabbed discovered produced painted imported
        """
    ),
    "loses": listed(
        """
        loses sells drops uses eats spends burns hides returns removes donates wastes discards abandons destroys
        forfeits misplaces crushes tosses buries delivers surrenders
        lost sold dropped used ate spent burned hid returned removed donated wasted discarded abandoned destroyed
        forfeited misplaced crushed tossed buried delivered surrendered
        """
    ),
    "lost": listed(
        """
        lost sold eaten used broken stolen given burned returned removed wasted discarded destroyed abandoned dropped
        donated damaged crushed spoiled buried tossed misplaced withdrawn
        """
    ),
    "gives": listed(
        """
        gives sends passes brings mails sells ships tosses throws
        gave sent passed brought mailed sold shipped tossed threw
        """
    ),
    "given": listed("given sent passed brought mailed sold shipped tossed"),
    "takes": listed(
        """
        takes gets buys borrows receives wins steals accepts grabs obtains
        took got bought borrowed received won stole accepted grabbed obtained
        """
    ),
    "come": [
        "arrive", "appear", "come", "turn up", "are added", "are found", "come in", "show up", "are delivered",
        "are bought", "join them", "follow", "arrived", "appeared", "came", "turned up", "were added", "were found",
        "came in", "showed up", "were delivered", "joined them",
    ],
    "go": [
        "vanish", "disappear", "get lost", "are gone", "fall out", "fall off", "roll away", "are stolen",
        "are thrown away", "are taken", "wear out", "leave", "vanished", "disappeared", "got lost", "fell out",
        "fell off", "rolled away", "were stolen", "were thrown away", "were taken", "left",
    ],
}  # fmt: skip
"""``gets``, ``loses`` and ``lost`` are done by or to a single side, ``gives``, ``given`` and ``takes`` go between two
people, and ``come`` and ``go`` are what ``{o}`` do."""

SPOTS = [
    "in the box", "on the table", "in the room", "on the shelf", "under the bed", "in a drawer", "behind the house",
    "in the car", "on the ship", "near the door", "at the station", "in the kitchen", "on the roof", "in the hall",
    "in the office", "on the desk",
]  # fmt: skip
KEEPERS = [
    "A shop", "A farmer", "The class", "A school", "The museum", "A baker", "The team", "A village", "The king",
    "A factory", "The library", "My sister", "A hotel", "The club", "Our teacher", "A pilot",
]  # fmt: skip
STARTS = [
    *(f"There are {{a}} {{o}} {spot}." for spot in SPOTS),
    *(f"{keeper} {{has}} {{a}} {{o}}." for keeper in KEEPERS),
    "{n} has {a} {o}.", "{n} {has} {a} {o}.", "{n} starts with {a} {o}.", "{n} bought {a} {o}.", "{n} made {a} {o}.",
    "{n} found {a} {o}.", "{n} had {a} {o}.", "A basket holds {a} {o}.", "{n} picked {a} {o}.", "{n} {gets} {a} {o}.",
    "{n} got {a} {o} from {m}.", "{n} and {m} have {a} {o}.", "In a room there are {a} {o}.",
    "{n} put {a} {o} on a shelf.", "{a} {o} belong to {n}.", "{a} {o} are on the floor.", "{a} {o} lie on the grass.",
    "{n} stores {a} {o} at home.", "{n} has a bag of {a} {o}.", "{n} has a box with {a} {o}.", "{n} sees {a} {o}.",
    "There were {a} {o} to begin with.", "{n} began with {a} {o}.", "Yesterday {n} {gets} {a} {o}.",
    "{n} and {m} own {a} {o}.", "Together {n} and {m} have {a} {o}.", "{m} gave {n} {a} {o}.",
    "{m} {gives} {a} {o} to {n}.", "{n} {takes} {a} {o} from {m}.", "{n} was {given} {a} {o}.",
    "{n} brought {a} {o} to school.", "{n} took {a} {o} on a trip.", "{n} needs {a} {o} and buys them.",
    "{n} pulls {a} {o} out of a bag.", "Here are {a} {o}.", "We have {a} {o}.", "I have {a} {o}.",
    "A truck brings {a} {o}.", "A bag with {a} {o} stands in the hall.", "In the garden {n} finds {a} {o}.",
    "{n} lays out {a} {o}.", "{n} sets {a} {o} on the table.", "{n} already has {a} {o}.", "So far {n} has {a} {o}.",
    "Last year {n} had {a} {o}.", "For the party {n} {gets} {a} {o}.", "Of all things {n} owns {a} {o}.",
    "{a} {o} were left to {n}.", "The bag of {n} holds {a} {o}.", "{n} opens a box and finds {a} {o}.",
    "The number of {o} is {a}.", "Let there be {a} {o}.", "{n} works with {a} {o}.", "{n} stacks {a} {o}.",
    "The {o} of {n} number {a}.", "{n} is the owner of {a} {o}.", "All {a} {o} are in the bag of {n}.",
    "As a child {n} had {a} {o}.",
]  # fmt: skip
PLUS = [
    "{n} {gets} {b} more {o}.", "{n} {gets} {b} more.", "{n} {gets} {b} {o}.", "{n} then {gets} {b} other {o}.",
    "{n} {gets} another {b} {o}.", "{n} {gets} another {b}.", "{n} also {gets} {b} {o}.", "{n} {gets} {b} extra {o}.",
    "{n} {gets} {b} {o} as well.", "{n} {gets} {b} new {o}.", "{n} even {gets} {b} more of them.",
    "{n} quickly {gets} {b} {o}.", "At a shop {n} {gets} {b} {o}.", "With some help {n} {gets} {b} {o}.",
    "{b} more {o}, that is what {n} {gets}.", "{n} goes out and {gets} {b} more {o}.",
    "{m} helps, so {n} {gets} {b} more.", "{n} and {m} find {b} more {o}.", "Another {b} is what {n} {gets}.",
    "{m} gives {n} {b} {o}.", "{m} {gives} {n} {b} {o}.", "{m} {gives} {n} {b} more {o}.",
    "{m} {gives} {b} {o} to {n}.", "{m} {gives} another {b} {o} to {n}.", "{m} kindly {gives} {n} {b} {o}.",
    "From {m} come {b} {o}.", "{m} gives {n} {b} as a gift.", "{m} has {b} {o} and gives them all to {n}.",
    "{m} does not need {b} {o} and gives them to {n}.", "{n} gets {b} {o} from {m}.", "{n} {takes} {b} {o} from {m}.",
    "{n} {takes} {b} more from {m}.", "From {m} {n} {takes} {b} {o}.", "{n} asks {m} and gets {b} {o}.",
    "{n} is {given} {b} {o}.", "{n} was {given} {b} {o} by {m}.", "{n} is {given} {b} more.",
    "{b} {o} are {given} to {n}.", "{b} {o} were {given} to {n} by {m}.", "{b} more {o} {come}.",
    "{b} more {come}.", "{b} new {o} {come}.", "{b} other {o} {come} too.", "Another {b} {o} {come}.",
    "Suddenly {b} more {o} {come}.", "{b} {o} come from {m}.", "There come {b} more {o}.",
    "Another {b} {o} are added.", "{m} adds {b} {o}.", "{m} brings {b} more {o}.", "{m} puts in {b} {o}.",
    "{m} adds {b} to them.", "{m} drops {b} {o} into the pile.", "{m} lays {b} more {o} beside them.",
    "{m} comes along with {b} more {o}.", "{m} arrives and adds {b} {o}.", "The number of {o} grows by {b}.",
    "The number of {o} rises by {b}.", "The pile grows by {b} {o}.", "The count goes up by {b}.",
    "There are {b} more {o} than before.", "{n} now has {b} more {o}.", "{n} has {b} {o} more than before.",
    "{n} adds {b} to the {o}.", "{b} are added to the {o}.", "{n} gains {b} {o}.", "A friend gives {n} {b} {o}.",
    "A neighbor brings {b} {o}.", "The teacher hands out {b} {o} to {n}.", "The mother of {n} buys {b} {o}.",
    "A shop sends {n} {b} {o}.", "A truck brings {b} {o}.", "A box with {b} more {o} is opened.",
    "In a drawer {n} finds {b} {o}.", "{n} sees {b} {o} and takes them.", "{n} wins a prize of {b} {o}.",
    "{n} pays for {b} {o}.", "{n} comes home with {b} {o}.", "{n} gets back {b} {o}.", "{m} returns {b} {o} to {n}.",
    "{n} wants more and {gets} {b}.", "Luckily {n} {gets} {b} more {o}.",
]  # fmt: skip
MINUS = [
    "{n} {loses} {b} {o}.", "{n} {loses} {b} of them.", "{n} {loses} {b}.", "{n} {loses} {b} of the {o}.",
    "{n} then {loses} {b} {o}.", "{m} {loses} {b} of the {o}.", "{m} {loses} {b} of them.", "{n} also {loses} {b} {o}.",
    "{b} of the {o} are what {n} {loses}.", "Of the {o} {n} {loses} {b}.", "Of them {m} {loses} {b}.",
    "By mistake {n} {loses} {b} {o}.", "Sadly {n} {loses} {b} {o}.", "{n} goes out and {loses} {b} of them.",
    "{n} is careless and {loses} {b} {o}.", "{n} and {m} lose {b} {o}.", "{n} and {m} use up {b} of them.",
    "{n} gives {b} {o} to {m}.", "{n} gave {m} {b} {o}.", "{n} {gives} {m} {b} {o}.", "{n} {gives} {b} {o} to {m}.",
    "{n} {gives} {b} of them to {m}.", "{n} {gives} {m} {b} of the {o}.", "{n} kindly {gives} {m} {b} {o}.",
    "{n} does not need {b} {o} and gives them to {m}.", "To {m} {n} {gives} {b} {o}.",
    "{m} asks {n} and gets {b} {o}.", "{m} takes {b} {o} from {n}.", "{m} {takes} {b} {o} from {n}.",
    "{m} {takes} {b} of the {o} from {n}.", "From {n} {m} {takes} {b} {o}.", "{m} took {b} of them.",
    "{m} takes away {b} {o}.", "{m} comes along and takes {b} {o}.", "{m} is {given} {b} {o} by {n}.",
    "{m} was {given} {b} of them.", "{b} {o} are {given} to {m}.", "{b} of the {o} were {given} to {m}.",
    "{b} {o} are {lost}.", "{b} of the {o} are {lost}.", "{b} of them are {lost}.", "{b} {o} were {lost} by {n}.",
    "{b} of them had to be {lost}.", "{b} {o} had to be {lost}.", "Of the {o} {b} are {lost}.",
    "{b} {o} {go}.", "{b} of the {o} {go}.", "{b} of them {go}.", "Suddenly {b} {o} {go}.", "Of the {o} {b} {go}.",
    "{n} throws away {b} {o}.", "{n} gives away {b} {o}.", "{n} hands out {b} {o}.", "{n} gets rid of {b} {o}.",
    "{n} has to give up {b} {o}.", "{n} lets {b} {o} fall.", "{n} takes out {b} {o}.", "{n} sets {b} {o} free.",
    "{n} leaves {b} {o} behind.", "{n} pays {m} with {b} {o}.", "{n} forgets {b} {o} on the train.",
    "The number of {o} falls by {b}.", "The number of {o} drops by {b}.", "The pile shrinks by {b} {o}.",
    "The count goes down by {b}.", "There are {b} {o} less than before.", "There are now {b} fewer {o}.",
    "{n} now has {b} fewer {o}.", "{n} has {b} {o} less.", "{b} are taken from the {o}.", "A thief steals {b} {o}.",
    "A dog runs away with {b} {o}.", "A child takes {b} of the {o}.", "A friend of {n} needs {b} {o} and gets them.",
    "The wind blows away {b} {o}.", "Water spoils {b} of the {o}.", "A fire burns {b} {o}.", "A river takes {b} {o}.",
    "{n} sees that {b} {o} are bad and throws them out.", "{m} eats or uses {b} of them.", "{n} gives back {b} {o}.",
    "{n} returns {b} {o} to {m}.", "{n} subtracts {b} {o}.",
]  # fmt: skip
TIMES = [
    "The number of {o} grows {b} times.", "{n} now has {b} times as many.",
    "{n} ends up with {b} times as many.", "{n} multiplies the {o} by {b}.", "{n} has {b} times as many {o}.",
    "A day later there are {b} times as many.", "{n} makes the pile {b} times as big.",
    "There are {b} times as many {o} soon.", "The {o} become {b} times as many.",
    "The number of {o} is multiplied by {b}.", "The {o} are multiplied by {b}.", "{m} multiplies them by {b}.",
    "The number of {o} grows by a factor of {b}.", "The pile becomes {b} times larger.",
    "The pile grows to {b} times its size.", "Soon the pile is {b} times as large.",
    "{n} works until there are {b} times as many.", "{b} times as many {o} are there soon.",
    "{b} times as many is what {n} has now.", "{b} times the old number of {o} is there now.",
    "{n} wants {b} times as many {o} and gets them.", "{m} makes it {b} times as many.",
    "With luck {n} has {b} times as many {o}.", "A month later {n} owns {b} times as many.",
    "A year later the number is {b} times as high.", "The total rises to {b} times what it was.",
    "The {o} of {n} grow to {b} times as many.", "There are now {b} times more {o} than before.",
    "{n} now owns {b} times the number of {o}.", "{n} has {b} times what was there before.",
    "Each of the {o} turns into {b}.", "Every one of the {o} becomes {b}.", "{n} gets {b} {o} in place of each one.",
    "{m} gives {b} new {o} for each old one.", "{n} swaps each of the {o} for {b} new ones.",
    "For each of them {n} now has {b}.", "Where there was one, there are now {b}.",
    "{n} cuts each of them into {b} pieces.", "Each one is cut into {b} parts.", "{n} replaces each one by {b} {o}.",
    "{n} copies them until each is there {b} times.", "{m} sees {b} times as many {o} the next day.",
    "Magic makes {b} out of every one.", "The {o} multiply by {b}.",
    "The box now holds {b} times as many {o}.", "The number of {o} is now {b} times as big.",
]  # fmt: skip
DIVIDE = [
    "{n} shares the {o} among {b} friends.", "{n} splits them into {b} equal groups.", "{n} divides the {o} by {b}.",
    "{n} puts the {o} equally into {b} boxes.", "The {o} are split among {b} people.",
    "{b} friends share them equally.", "{n} divides them into {b} equal parts.", "The {o} go equally to {b} houses.",
    "{n} shares them with {b} people.", "{n} divides the {o} among {b} friends.", "{n} splits the {o} {b} ways.",
    "{n} sorts the {o} into {b} equal piles.", "{n} makes {b} equal piles of {o}.", "{n} fills {b} equal bags.",
    "{n} lays the {o} out in {b} equal rows.", "{n} forms {b} groups of the same size.",
    "{n} spreads the {o} evenly over {b} tables.", "{n} gives the same number to each of {b} people.",
    "{n} gives {b} friends an equal share.", "{n} and the others, {b} in total, share the {o}.",
    "{m} divides them evenly among {b} teams.", "{m} splits the {o} into {b} parts.", "{m} sets up {b} equal rows.",
    "{m} puts the same number into each of {b} bags.", "The {o} are divided by {b}.",
    "The {o} are divided among {b} classes.", "The {o} are put into {b} equal stacks.",
    "The {o} are placed evenly on {b} shelves.", "The {o} are dealt out evenly to {b} players.",
    "The {o} come in {b} equal lots.", "The number of {o} is divided by {b}.",
    "The pile is split into {b} equal parts.", "The {o} fill {b} boxes evenly.", "{b} people get equal parts.",
    "{b} people divide the {o} among them.", "{b} people get the same number of {o}.",
    "{b} boxes get equally many {o}.", "{b} boys and girls split the {o} evenly.",
    "{b} teams each get the same number.", "Each of {b} people gets an equal share.",
    "Each of {b} drawers gets the same number.", "Among {b} friends the {o} are split evenly.",
    "Into {b} boxes {n} puts the same number of {o}.", "In {b} bags {n} puts equally many {o}.",
    "All of the {o} go in equal parts to {b} shops.", "They are shared out fairly to {b} people.",
    "{b} equal groups are made of the {o}.",
]  # fmt: skip
RATES = [
    "{n} has {a} boxes with {b} {o} each.", "There are {a} bags of {b} {o}.", "{n} buys {a} packs of {b} {o}.",
    "Each of {a} children has {b} {o}.", "{n} makes {b} {o} a day for {a} days.", "{a} shelves hold {b} {o} each.",
    "Each bag has {b} {o}. {n} has {a} bags.", "{n} fills {a} jars with {b} {o} each.",
    "{n} {has} {a} bags with {b} {o} in each.", "There are {a} rows with {b} {o} in each row.",
    "{a} friends bring {b} {o} each.", "{a} boxes hold {b} {o} each.", "In each of {a} rooms there are {b} {o}.",
    "For {a} days {n} {gets} {b} {o} every day.", "Every day {n} {gets} {b} {o}. {a} days go by.",
    "Each week {n} gets {b} {o}. {n} waits {a} weeks.", "{n} buys {b} {o} on each of {a} days.",
    "A box holds {b} {o}. There are {a} boxes.", "One bag holds {b} {o}. {n} takes {a} bags.",
    "{n} lays {a} rows of {b} {o}.", "{n} has {a} sets of {b} {o}.", "{n} gets {b} {o} from each of {a} people.",
    "{a} people give {n} {b} {o} each.", "{a} times {n} {gets} {b} {o}.", "With {b} {o} a table, {a} tables are full.",
    "{n} puts {b} {o} in a bag and fills {a} bags.", "There are {b} {o} on each of {a} plates.",
    "Each house has {b} {o}. The street has {a} houses.", "{n} and {m} have {a} boxes of {b} {o}.",
    "{n} makes {a} piles of {b} {o}.", "A team has {b} {o}, and there are {a} teams.",
]  # fmt: skip
SUMS = [
    "{n} has {a} {o} and {m} has {b} {o}.", "There are {a} {o} here and {b} {o} there.",
    "{n} has {a} {o}. {m} has {b}.", "{n} made {a} {o} and {m} made {b}.", "{n} has {a} red {o} and {b} blue {o}.",
    "{n} {has} {a} {o}, {m} {has} {b}.", "{n} {has} {a} old {o} and {b} new ones.",
    "{n} {gets} {a} {o} and {m} {gets} {b}.", "{a} {o} are big and {b} are small.",
    "One box has {a} {o}, the other has {b}.", "{a} {o} are on the table and {b} on the floor.",
    "{n} brings {a} {o} and {m} brings {b} more.", "{a} {o} belong to {n} and {b} to {m}.",
    "{n} {gets} {a} {o} on one day and {b} on the next.", "{n} {gets} {a} {o} at home and {b} at school.",
    "In one bag are {a} {o}, in another {b}.", "{n} has {a} white {o} plus {b} black ones.",
    "{n} has {a} {o} and gets {b} from {m}.", "There are {a} good {o} and {b} bad ones.",
    "{n} {has} {a} {o} and also {b} from {m}.", "{n} puts {a} {o} from {m} with {b} others.",
]  # fmt: skip
LINKS = [
    "Then ", "Later ", "After that ", "Next ", "The next day ", "Today ", "Now ", "In the evening ", "Soon ",
    "Afterwards ", "A week later ", "An hour later ", "Two days later ", "Finally ", "And then ", "Since then ",
    "Some time later ", "After a while ", "Also ",
]  # fmt: skip
WHEN = [
    "On Friday ", "In May ", "At noon ", "At night ", "In summer ", "On the way ", "Before dinner ", "In winter ",
    "In town ", "Last week ", "At school ", "On Sunday ", "In April ", "At the lake ", "By evening ", "Once more ",
    "On Tuesday ", "On Thursday ", "In March ", "In October ", "In autumn ", "After lunch ", "At home ", "At work ",
    "During the trip ", "On the train ", "One day ", "On a cold day ", "That night ", "At dawn ", "In the shop ",
    "For some reason ",
]  # fmt: skip
WHERE = [
    " at the market", " for the party", " in a bag", " at home", " near the river", " for the school", " in the garden",
    " on the floor", " before lunch", " in the shop", " for a friend", " behind the door", " on the farm",
    " in the yard", " at work", " near the bridge", " under a tree", " after school", " by the lake", " during the day",
    " in the park", " on the road", " at the station", " this week", " in the rain", " with a smile",
]  # fmt: skip
ASKS = [
    "How many {o} are there now?", "How many {o} does {n} have?", "What is the number of {o}?",
    "How many {o} are left?", "How many are there in the end?", "How many {o} are there?",
    "How many {o} does {n} have now?", "What is the final number of {o}?", "How many does {n} have?",
    "How many {o} in total?", "Find the number of {o}.", "How many are left?", "How many {o} is that?",
    "How many {o} does that make?", "How many {o} are there altogether?", "How many {o} does {n} have left?",
    "How many {o} does {n} end up with?", "How many {o} does {n} own now?",
    "How many {o} has {n} got?", "Now how many {o} are there?", "So how many {o} are there?",
    "In the end, how many {o} are there?", "After all this, how many {o} are there?", "What is the total?",
    "What is the total number of {o}?", "What is the number of {o} now?", "What is the count of {o} now?",
    "Tell how many {o} there are.", "Tell the number of {o}.", "Give the number of {o}.", "Compute the number of {o}.",
    "Work out how many {o} there are.", "Find how many {o} {n} has.", "Find out how many there are now.",
    "Say how many {o} {n} has now.", "Can you tell how many {o} there are?", "The number of {o} is now what?",
    "How large is the number of {o}?", "{n} now has how many {o}?", "There are how many {o} now?",
    "How many {o} can {n} use?", "How many {o} would you find?", "How many {o} does this leave?",
    "How many of the {o} are there now?", "How many are there?",
]  # fmt: skip
SHARE_ASKS = [
    "How many {o} does each get?", "How many are in each?", "How many {o} for each one?", "How many each?",
    "How many {o} are in each?", "How many does each one get?", "How many {o} is that for each?",
    "How many {o} go to each?", "How big is each share?", "What does each get?", "How many {o} are in one share?",
    "How many {o} make up one part?", "What is the number of {o} in each?", "Find the number for each.",
    "Each has how many {o}?", "For each one, how many {o} are there?",
]  # fmt: skip
OBJECTS = listed(
    """
    apples pears plums coins books cards shells stones eggs cups pens balls toys nuts cakes stamps keys
    boxes fish birds bottles flowers hats chairs plates letters tickets photos beads stars dogs cats trees
    cookies oranges bags spoons rings bricks pencils maps socks gloves scarves pillows clocks bells drums flags masks
    magnets lamps nails screws bolts wheels blocks cubes tokens medals dolls robots melons peaches cherries grapes
    carrots potatoes onions tomatoes beans seeds roses rabbits hens ducks goats cows horses bees frogs buns pies
    muffins pots bowls forks knives brushes crayons notebooks posters coats boots belts balloons bananas
    """
)
