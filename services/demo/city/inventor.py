"""Names, codes and numbers that nobody has."""

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from random import Random

from services.demo.city.model import Person
from shared.identifiers import USCC_ALPHABET, id_check_char, org_code_check_char, uscc_check_char

# kind → first two characters of the code, industry, name ({} = an invented word)
KINDS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "enterprise": (
        ("91", "C1361", "荣成市{}水产食品有限公司"),
        ("91", "A0411", "荣成{}海带养殖有限公司"),
        ("91", "C3731", "山东{}船舶制造有限公司"),
        ("91", "E4710", "荣成市{}建筑工程有限公司"),
        ("91", "F5292", "威海{}网络科技有限公司"),
        ("91", "G5430", "荣成{}货运有限公司"),
        ("91", "H6210", "荣成市{}餐饮管理有限公司"),
        ("91", "I6513", "山东{}软件有限公司"),
    ),
    "sole_trader": (("92", "H6210", "荣成市{}小吃店"), ("92", "F5219", "荣成市{}百货店")),
    "cooperative": (("93", "A0411", "荣成市{}渔业专业合作社"),),
    "social_organisation": (("51", "S9421", "荣成市{}行业协会"),),
    "private_non_enterprise": (("52", "P8310", "荣成市{}幼儿园"),),
    "foundation": (("53", "S9430", "荣成市{}公益基金会"),),
    "law_firm": (("31", "L7231", "山东{}律师事务所"),),
    "public_institution": (("12", "P8331", "荣成市{}实验学校"),),
    "government_body": (("11", "S9221", "荣成市{}事务服务局"),),
    "village_collective": (("N2", "S9610", "荣成市{}村股份经济合作社"),),
    "other": (("81", "S9411", "荣成市{}工会委员会"),),
}
_WORD_START = "海瀚沣泓浩源鸿恒润盛泰安嘉锦景瑞祥庆丰宏"
_WORD_END = "岚澜汐屿舟帆湾川岭松桦岩辰曜远航拓晟铭钧棠霖霄澄珩洲"
_SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧"
_GIVEN = "伟芳秀敏静强磊洋艳勇军杰娟涛明超霞平刚桂文辉玲鹏红晓玉华建国海"
# Area codes of first issue, with the years of birth that carried them at registration.
_AREAS = (
    ("371082", 1967, 2006),
    ("370633", 1983, 1987),
    ("371023", 1987, 1988),
    ("371002", 1975, 2005),
    ("371081", 1972, 2004),
    ("370602", 1970, 2003),
    ("210211", 1969, 2002),
    ("230103", 1968, 2001),
    ("411524", 1975, 2004),
    ("513022", 1974, 2003),
)
_MOBILE_PREFIXES = [
    "130",
    "131",
    "135",
    "138",
    "139",
    "150",
    "152",
    "158",
    "166",
    "172",
    "176",
    "186",
    "188",
    "191",
    "199",
]
_OPENID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Inventor:
    """Makes up what a unit is called and who is behind it; nothing comes twice."""

    def __init__(self, rng: Random, towns: Sequence[str]) -> None:
        self.rng = rng
        self.towns = list(towns)
        self.people: list[Person] = []
        self._taken: set[str] = set()
        self._words = [a + b for a in _WORD_START for b in _WORD_END]
        rng.shuffle(self._words)
        rng.shuffle(self.towns)

    def word(self) -> str:
        """A word that no other unit's name has."""
        return self._words.pop()

    def _unique(self, make: Callable[[], str]) -> str:
        while (value := make()) in self._taken:
            pass
        self._taken.add(value)
        return value

    def uscc(self, kind_code: str, *, valid: bool = True) -> str:
        """A code; not valid: with a wrong check character."""

        def make() -> str:
            head = "MAY" + "".join(self.rng.choices("0123456789ABCDEFGHJKLMNPQRTUWXY", k=5))
            first17 = kind_code + "371082" + head + org_code_check_char(head)
            right = uscc_check_char(first17)
            return first17 + (right if valid else self.rng.choice(USCC_ALPHABET.replace(right, "")))

        return self._unique(make)

    def mobile(self) -> str:
        """A mobile number."""
        return self._unique(lambda: f"{self.rng.choice(_MOBILE_PREFIXES)}{self.rng.randrange(10**8):08}")

    def person(self) -> Person:
        """Somebody of working age, with a valid ID number."""

        def make() -> str:
            area, first, last = self.rng.choice(_AREAS)
            born = date(self.rng.randint(first, last), 1, 1) + timedelta(days=self.rng.randrange(365))
            first17 = f"{area}{born:%Y%m%d}{self.rng.randint(1, 999):03}"
            return first17 + id_check_char(first17)

        given = "".join(self.rng.choices(_GIVEN, k=self.rng.choice((1, 2, 2))))
        person = Person(self._unique(make), self.rng.choice(_SURNAMES) + given)
        self.people.append(person)
        return person

    def openid(self) -> str:
        """What WeChat knows a follower by."""
        return self._unique(lambda: "o" + "".join(self.rng.choices(_OPENID_ALPHABET, k=27)))
