"""English words of the guard: which restrict or reverse a meaning, which may replace each other, and which carry none.

The tables hold dictionary forms; `sidecard_client.keys.guard.words` reduces them and a text's words to the same stems.
A word in none of them is a *subject* (a name, a product, a thing), which both texts must have.
"""

from typing import Final

NEGATIONS: Final = """
not no none nor neither nothing nobody nowhere non cannot
never
without lack lacking sans free
except excluding exclude apart
unless
hardly barely scarcely
rarely seldom
fail failed
refuse deny reject
false untrue wrong
instead rather
only solely
few little
stop quit cease halt
avoid prevent
forbid prohibit ban disallow
"""
"""Words that reverse or restrict a meaning, one kind a line: both texts must have the same ones."""

FUNCTION_WORDS: Final = """
a an the this that these those there here it its itself is are was were be been being am do does did done doing have has had
having will would shall should may might can could must of in on at for and or as so such then also too very just but between among during which who
whom whose what when where why how if whether else however therefore thus hence moreover furthermore nevertheless otherwise
quite really actually simply merely already still yet even own same other another any some each every both either within
inside about regarding concerning via through along upon onto with by to into from out off up down over under per than like
etc please kindly yes well now again meanwhile though although while whereas because since due thereby therein order let
you your yours yourself they them their theirs one ones themselves us s m d t ll re ve
"""
"""Words without a meaning of their own, or with one that their order or the tables below capture."""

DEMONSTRATIVES: Final = frozenset({"it", "this", "that", "these", "those"})

PERSONS: Final = """
i me my mine myself we our ours ourselves
he him his himself
she her hers herself
"""
OTHER_PERSONS: Final = """
you your yours yourself
they them their theirs themselves
"""

SYNONYMS: Final = """
use utilize utilise employ leverage usage utilization apply application utilisation
provide furnish offer supply give deliver grant serve
allow enable permit facilitate possible feasible able ability capable capability capacity
create generate produce make build construct form craft assemble generation creation
obtain acquire retrieve fetch gain receive access get
include contain comprise encompass incorporate consist cover
show display present demonstrate illustrate
need require necessary essential requirement necessity mandatory want wish desire intend
help assist aid support useful helpful beneficial advantageous assistance
explain describe outline clarify elucidate description explanation
information info knowledge detail guidance advice instruction direction guide tutorial
way method manner approach technique means procedure
purpose goal aim objective intention intent
example instance sample illustration
function role
various different several multiple many numerous diverse variety range array
certain particular specific specifically particularly respective
quick fast rapid speedy swift quickly rapidly fastly speedily expedite accelerate
easy simple straightforward uncomplicated easily ease simplify convenient effortless
large big huge major significant great
important crucial vital key
choose select pick opt choice selection option alternative
change alter modify adjust transform convert conversion alteration transformation modification manipulate
improve enhance augment boost better
join merge integrate unite together collaborate
divide split separate partition division portion section segment part
find locate discover search look location
keep store save retain storage preserve hold
check verify examine confirm inspect
evaluate assess appraise assessment evaluation measure
calculate compute determine calculation computation
think consider believe regard view treat
call name term refer designate title label denote
define specify state indicate definition specification stipulate
mean meaning signify signification
return yield output
execute run perform carry execution conduct
operate work operation
handle manage deal administration management oversee
share distribute disseminate
similar alike
identical equal equivalent
type kind sort category class
unique distinct distinctive
whole entire complete full fully completely entirely all
suitable appropriate proper fit
correct right accurate correctly accurately exact exactly precise precisely properly
usual usually typical typically normal normally generally standard common commonly
additional additionally extra further besides supplementary
reason cause
result outcome consequence
problem issue trouble difficulty
error mistake fault
group collection set assortment
amount number quantity count
folder directory
document documentation
image picture photo visual vision
text textual
tool utility instrument
task job
learn study
teach instruct
talk discuss speak
ask inquire
tell inform notify advise
know understand comprehend aware familiar
see observe notice
read peruse
write compose
list enumerate catalog catalogue
fix repair solve resolve
best optimal ideal
recommend suggest propose
current latest recent cutting-edge modern new
previous prior earlier previously
substitute replace
prepare ready
configure configuration setup setting
organize arrange organise
connect link connection
add append insert addition
take accept
pass transfer
represent representation
base foundation basis
concept conceptual
relevant related pertinent associated
attribute property feature characteristic quality
structure architecture layout
ensure guarantee
deprecated discontinued
often frequently
short brief concise
summary overview synopsis summarize summarise
happen occur
effect impact influence
start begin commence initiate launch
end finish conclude
increase rise grow raise
decrease reduce shrink lower
buy purchase
car automobile
movie film
city town
country nation
person people individual user
doctor physician
hello hi hey greetings
goodbye bye
thank thanks
numeric numerical
easier simpler
iterate cycle traverse loop iteration
shuffle randomize
clean clear
derive inherit
stay remain
percent percentage
adhere follow
register sign
optimize maximize
effectiveness performance efficiency
secure safe
faster quicker
combination combine
"""
"""Words that may replace each other, one meaning a line."""

GENERAL: Final = """
parameter argument once correspond design control eliminate compatible cast adhere compliance recalculate recompute explore
remain achieve become limitation constraint restriction identifier refresh random randomly randomize serialize traverse
iterate loop performance import interact interaction click act resort render register establish allocate assign integration
devote wide potential match fresh decide action whenever remember forget mark marker seem solution situation teach designation
analyze exceed surpass investigate progress progressively special independent independently individually effectiveness
temporarily dive focus stay situate maximize optimize limit space lot mode insight eager behavior attempt framework strong deep
wider accommodate collective move efficient efficiency formulate gradual gradually distinction transition approximate style lazy
lazily resource actual successful derive inherit implement implementation originate absence pool amalgamate turn broad revise
expose extraction extract extend duplicate copy functionality lead accessible redirect relation accord according distinguish
declare draw encapsulate aggregate categorize benefit experience intricate comprehensive thorough complex especially currently
kind degree extent area aspect regard respect view context scenario chance opportunity advantage hand fact matter real true truly
indeed certainly definitely clearly obviously importantly notably contribute devise accomplish attain fulfil fulfill meet satisfy
tend appear look sound feel try endeavor strive seek aim continue proceed consider deem pertain rely depend arise emerge step
follow mention process processing environment automatic automatically content element
"""
"""Further words that a text may have and the other not."""

LIGHT: Final = """
use utilize utilise employ leverage usage utilization utilisation
provide furnish offer supply give grant serve
allow enable permit facilitate possible feasible able ability capable capability capacity possibility
way method manner approach means
various different several multiple numerous diverse
certain particular specific specifically particularly respective given
information info detail
intend intended design designed
item thing word term
refer carry perform conduct execute
exist existence available availability
involve concern relate related relevant associated specify designate indicate define
help assist aid support
act itself form case
purpose goal aim objective intention intent
include contain comprise encompass
obtain get
"""
"""Words that a text may have or lack without another meaning."""

NEGATIVE_PREFIXES: Final = ("un", "in", "im", "ir", "il", "dis", "non", "mis")
NEGATIVE_SUFFIX: Final = "less"

INTERROGATIVES: Final = ("who whom whose", "when", "where", "why")
LEADING_WORDS: Final = """
please kindly hi hello hey so ok okay and well can could would will you tell inform let know do i we want to need like me us
explain show now then exactly
"""
"""Words that may stand before the interrogative of a question."""

GOVERNORS: Final = ("from", "to into", "than", "by", "against", "versus vs")
"""Prepositions that give a word its role."""

PARTICLE_VERBS: Final = "turn switch log sign opt check put shut scale move power roll step zoom speed come go"
PARTICLES: Final = ("on off", "in out", "up down")
"""Each pair are opposites after one of these verbs, as in "turn on" and "turn off", and nowhere else."""

SYMBOL_WORDS: Final = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "%": "percent", "°": "degree"}

FOREIGN: Final = """
der das den dem des ein eine einen einem einer ist sind und oder nicht kein keine wie wer warum wann welche welcher von zu mit
für auf aus ich du wir ihr sie el los las uno unos unas es está qué cómo dónde quién por para del de la le les un une du et ou
est sont que qui quoi où pourquoi quand dans sur avec pas il gli che perché quando sono het een niet geen wat waar uma não det
och är inte jeg ikke jak nie
"""
"""Frequent words of other languages, one of which may be a name or borrowed."""

FOREIGN_NEGATIONS: Final = """
nicht kein keine keinen keiner ohne jamais aucun aucune nunca nada senza geen niet zonder não nem sem inte utan ikke uten uden
"""

CONTRASTS: Final = """
increase rise grow raise rose risen grew grown raised climb climbed | decrease reduce fall drop decline shrink lower fell fallen dropped lowered
enable activate | disable deactivate
before precede prior previous earlier until | after follow following later next subsequent afterwards
buy purchase | sell
min minimum minimal minimize minimise least lowest smallest shortest | max maximum maximal maximize maximise most highest largest biggest longest
first | last final | second | third | fourth | fifth
more greater higher above larger bigger longer | less fewer lower below smaller shorter
one single once | two twice double both | three triple thrice | four | five | six | seven | eight | nine | ten | half | dozen | hundred | thousand | million | billion
all every each always whole entire | some sometimes partly | none never
open | close shut closed
start begin begun started | end finish stop ended
create add insert | delete remove erase drop
true | false
allow permit allowed | forbid deny prohibit
import | export
input | output
upload | download
internal inside | external outside
over above | under below
up | down
left | right
newest latest recent | oldest
fast quick rapid faster quicker fastest | slow slower slowest
easy simple easier simplest | difficult hard complex complicated
good better best advantage benefit | bad worse worst disadvantage drawback
push | pull
send | receive
accept | reject refuse
join | leave split separate
same identical equal | different
similar | dissimilar
read | write
public | private
win won | lose lost
big large huge | small tiny
high | low
early earlier | late
is are does do has have | was were did had | will
can could may might | must need | should | will
and | or
for | against
because since | despite although though
both | either
still | already
here | there
"""
"""Opposites, in poles: texts that both have a word of a line must have words of the same poles."""
