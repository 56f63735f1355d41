"""The phrases of refusals, over text in lower case, with contractions in full and `` | `` between sentences."""

from __future__ import annotations

from typing import Final

CONTRACTIONS: Final[tuple[tuple[str, str], ...]] = (
    (r"\bcan ?(?:n ?)?' ?t\b|\bcan ?not\b", "cannot"),
    (r"\bwo ?n ?' ?t\b", "will not"),
    (r"\b(do|does|did|could|would|should|is|are|was|were|have|has|must|need) ?n ?' ?t\b", r"\1 not"),
    (r"\bi ?' ?m\b", "i am"),
    (r" ?' ?re\b", " are"),
    (r" ?' ?ll\b", " will"),
    (r" ?' ?ve\b", " have"),
    (r"\b(i|you|we|it|that) ?' ?d\b", r"\1 would"),
    (r"\b(it|that|this|what|there|here) ?' ?s\b", r"\1 is"),
    (r"\blet ?' ?s\b", "let us"),
)
"""What stands for what, where a text has apostrophes."""
FUSED: Final = {
    "cant": "cannot", "wont": "will not", "dont": "do not", "doesnt": "does not", "didnt": "did not", "im": "i am",
    "couldnt": "could not", "wouldnt": "would not", "shouldnt": "should not", "isnt": "is not", "gonna": "going to",
}  # fmt: skip
"""The same where the apostrophe was left out."""

_SOME: Final = (
    r"(?:(?:really|simply|just|also|still|therefore|however|truly|respectfully|politely|do|certainly|unfortunately|now"
    r"|currently|personally|honestly|absolutely|firmly|kindly|regretfully|definitely|generally|ethically"
    r"|legally|afraid"
    r"|in good conscience|at this time|under any circumstances|as an ai|actually|directly|ever|knowingly|either) )*"
)
"""Words between subject, denial and verb."""
_STATE: Final = (
    r"(?:unable|not able|not in a position|not equipped|not designed|not programmed|not built|not made|not meant"
    r"|not permitted|not allowed|not authori[sz]ed|not willing|not prepared|not going|not about|not here"
    r"|unwilling|forbidden"
    r"|prohibited|restricted|barred|not trained|not qualified|not inclined|reluctant|hesitant|not free|not at liberty"
    r"|programmed not|designed not|trained not|instructed not|built not|asked not|told not)"
)
_DENIAL: Final = (
    rf"(?:(?:cannot|can no longer|can neither|will not|will never|will no longer|would never|shall not|must not"
    rf"|should not"
    rf"|(?:am|are|is|was|will be|have been|remain) {_SOME}{_STATE}(?: to| from| with| for)?)(?: and | or | nor )?)+"
)
"""What is denied by ``i cannot``, ``i am not able to`` and so on; a verb of helping has to follow."""
_VERB: Final = (
    r"(?:help(?! but\b| (?:feel|think|notic|wonder|smil|laugh|admir|lov|fall|cry|be(?:com)?)ing\b)|assist|aid(?! )"
    r"|support (?:this|that|you|such|any|the (?:request|idea|creation)|requests|it|what|activit\w+|efforts)"
    r"|provid(?:e|ing)|giv(?:e|ing)(?! (?:up|away|in)\b)|offer(?:ing)?|shar(?:e|ing)|suppl(?:y|ying)|furnish"
    r"|answer(?:ing)?|respond(?:ing)?|repl(?:y|ying)"
    r"|discuss(?:ing)?|talk(?:ing)? about|speak(?:ing)? (?:about|on|to)|explain(?:ing)? (?:how to|that|this|the)"
    r"|describ(?:e|ing)|teach(?:ing)?|tell(?:ing)? you (?:how to|that|this|where|what|about|anything)"
    r"|show(?:ing)? you how"
    r"|guid(?:e|ing) you|walk(?:ing)? you|instruct(?:ing)?|advis(?:e|ing) (?:you )?(?:on|how|about)|suggest(?:ing)?"
    r"|recommend(?:ing)?|creat(?:e|ing)|writ(?:e|ing)|generat(?:e|ing)|produc(?:e|ing)|mak(?:e|ing) (?:that"
    r"|this|a|an|up|such)"
    r"|compos(?:e|ing)|draft(?:ing)?|craft(?:ing)?|develop(?:ing)?|build(?:ing)?|design(?:ing)?|cod(?:e|ing)"
    r"|compl(?:y|ying)|fulfil(?:l|ling)?|complet(?:e|ing)|carry(?:ing)? out|perform(?:ing)?|execut(?:e|ing)"
    r"|do(?:ing)? (?:that|this|it|so|what|any)|continu(?:e|ing)|proceed(?:ing)?|engag(?:e|ing)|participat(?:e|ing)"
    r"|tak(?:e|ing) part|go(?:ing)? (?:along|there|into (?:that|this|it|detail|specifics|such)|down)"
    r"|be(?:ing)? (?:part|a part|party|of)"
    r"|be(?:ing)? (?:able|of (?:help|assistance|any))|facilitat(?:e|ing)|enabl(?:e|ing)"
    r"|encourag(?:e|ing)|promot(?:e|ing)|endors(?:e|ing)|condon(?:e|ing)|advocat(?:e|ing)|allow(?:ing)?"
    r"|entertain(?:ing)?"
    r"|accommodat(?:e|ing)|honou?r|grant(?:ing)?|indulg(?:e|ing)|oblig(?:e|ing)|satisf(?:y|ying)"
    r"|meet(?:ing)? (?:this|that|your)"
    r"|translat(?:e|ing)|summari[sz](?:e|ing)|simulat(?:e|ing)|role ?play(?:ing)?|pretend(?:ing)?"
    r"|act(?:ing)? as|play(?:ing)? (?:the|a|this|that|along)"
    r"|process(?:ing)?|touch(?:ing)?|get(?:ting)? into|address(?:ing)?|disclos(?:e|ing)|reveal(?:ing)?|divulg(?:e|ing)"
    r"|contribut(?:e|ing)|collaborat(?:e|ing)|cooperat(?:e|ing)|accept(?:ing)? (?:this|that|your|such)"
    r"|agree(?:ing)? to"
    r"|put(?:ting)? (?:together|that|this)|lend(?:ing)?|say(?:ing)? (?:anything|more|that)|comment(?:ing)?"
    r"|weigh(?:ing)? in"
    r"|use (?:this|that|such|hate|offensive|derogatory|slurs)|cover(?:ing)?|list(?:ing)?|outline|detail"
    r"|reproduc(?:e|ing)|bypass(?:ing)?|hack(?:ing)?|access(?:ing)? (?:that|this|your|personal|private"
    r"|confidential)|let you)"
    r"(?!(?: \w+){0,3} enough\b)(?! (?:you )?how (?:much|happy|glad|grateful|excited|many|important|proud"
    r"|delicious|good)\b)"
    r"(?! (?:\w+ )?(?:if|whether) )"
)
"""What refusals deny."""
_SPEAKER: Final = r"(?:i|this assistant|this model|this ai|this system|the assistant|basedgpt)"
THING: Final = (
    r"(?:request|question|prompt|topic|subject|query|matter|conversation|content|information|inquiry|task|assignment"
    r"|idea|behaviou?r|activity|activities|thing|area|discussion|instructions?|material|action|actions|requests|one)"
)
_WRONG: Final = (
    r"(?:irresponsible|unethical|wrong|inappropriate|improper|immoral|unconscionable|reckless|unwise|illegal|unlawful"
    r"|harmful|dangerous|unsafe|not (?:right|appropriate|ethical|responsible|ok|okay|acceptable|proper|safe))"
)
_RULES: Final = (
    r"(?:guidelines?|policy|policies|programming|principles?|values|rules|ethics|terms|standards|training|instructions"
    r"|boundaries|code|restrictions|protocols?|nature|purpose|safety)"
)

_OTHER_VERB: Final = (
    r"(?:believe|imagine|wait|remember|recall|understand|know|see|agree|think|mind|like|hear|feel|find|expect"
    r"|help but|miss"
    r"|stand|have|afford|read|eat|live|argue|complain|blame|regret|need|want|seem|care|doubt|change|fix|prove"
    r"|guarantee|promise"
    r"|stop|sleep|go back|get (?:over|past|used)|take (?:it|this|that))"
)
"""What people cannot or do not do in stories and in plain talk."""

REFUSING: Final[tuple[str, ...]] = (
    # I cannot help; I am not able to provide; I will not; I would never
    rf"\b{_SPEAKER} {_SOME}{_DENIAL} {_SOME}{_VERB}\b",
    rf"\bwe {_SOME}{_DENIAL} {_SOME}(?:help|assist|provide|comply|fulfil\w*|support (?:this|that|such)|offer"
    rf"|discuss|share|answer"
    r"|do (?:that|this)|continue this|give (?:you )?(?:instructions|advice|information)|tell you how)\b",
    rf"(?:^|\| )(?:no |nope |sorry |unfortunately |but |and |so |well )*{_DENIAL} (?:help|assist|comply|provide"
    rf"|fulfil\w*|answer|do that|do this"
    r"|discuss|continue|support|share)\b",
    rf"(?:^|\| )(?:no |nope |sorry |unfortunately )*{_STATE} (?:to |with |from )?{_SOME}{_VERB}\b",
    # I will not be answering that: a denial that ends with what was asked
    rf"\bi {_SOME}(?:{_DENIAL}|do not|would not|may not)(?! {_SOME}{_OTHER_VERB}\b)(?: \w+){{1,5}}? (?:this"
    rf"|that|those|there|such \w+|(?:this|that|your) {THING})(?: (?:one|here|at all|for you|with you"
    rf"|today))?(?= \||$)",
    r"\bi (?:was|am) (?:not|never) (?:built|made|designed|trained|programmed|created|meant) (?:for|to)\b"
    r"|\bi have been (?:asked|told|instructed|trained|programmed|designed) (?:not to|to (?:avoid|decline"
    r"|refuse))\b|\bnot at liberty\b",
    r"\b(?:no way|no chance|never) (?:that |would |will |in which |under which )?(?:i|we) (?:would|will|can|am"
    r"|could|help|do|write|assist)\b",
    r"\b(?:leave (?:that|this|it|the (?:question|topic|subject|matter))(?: \w+){0,2} (?:alone|there|at that"
    r"|unanswered|unsaid|aside|be)|i (?:will|would) leave (?:unanswered|unsaid|alone|aside|out)|(?:will|would"
    r"|shall|am|rather|going to) keep(?:ing)? (?:this|that|it|those|such \w+)(?: \w+){0,2} to myself"
    r"|stop (?:you )?(?:right )?(?:there|here)\b|draw(?:ing)? (?:a|the|my) line)",
    r"\b(?:it is|it would be|it might be|i think it is|probably|i think it would be) (?:best|better|safer|wiser"
    r"|wisest)(?: for \w+ \w+)? (?:that |if )?(?:i|we) (?:do not|did not|leave|avoid|left|avoided|stay|stop"
    r"|talk|move|skip)",
    r"\b(?:perhaps|maybe|why not|feel free to|you (?:could|can|may|might)|could you|would you|please|kindly"
    r"|want to|do you want to) (?:\w+ )?(?:ask|try|pick|choose|pose|bring|talk)(?: me)?(?: with| about"
    r"| asking)?(?: about)? (?:something else|anything else|something different|a different (?:question|topic"
    r"|subject|request|task|one)|another (?:question|topic|subject|request|task))",
    r"\b(?:it|that|this) (?:would|will|is|does|may|might) not (?:be |feel |seem )?(?:right|appropriate"
    r"|responsible|ethical|wise|proper|fair|acceptable|ok|okay|good) (?:for me|of me|on my part|to (?:talk"
    r"|speak|discuss|joke|make (?:jokes|fun|light)|ask|say|use (?:such|that)|help|assist|encourage|promote"
    r"|create|generate|provide|share|give|answer|write|describe|explain|support|engage|comment))\b",
    rf"\bwe {_SOME}do not {_SOME}(?:provide|offer|assist|support|do|discuss|share|answer|respond|help"
    rf"|engage) (?:that|this|with|in (?:that|this|such)|such|to (?:that|this|such)) ",
    # weaker denials, with fewer verbs: in stories and in advice they mean other things
    rf"\bi {_SOME}(?:could not|should not|must not|may not|would not|might not) {_SOME}(?:help (?:you|with)"
    rf"|assist|possibly|provide|comply|fulfil\w*|answer that"
    r"|feel (?:comfortable|right)|be (?:able|comfortable|helping|willing)|engage in (?:this|that)|write (?:that"
    r"|this)|do that|share that|support that)\b",
    rf"\bi {_SOME}do not {_SOME}(?:provide|assist|help (?:with|people|anyone)|offer|support (?:this|that|such"
    rf"|the use|any)|engage|participate|condone|create|generate|produce|give"
    r"|comply|discuss|feel (?:comfortable|right|able)|(?:want|wish|intend|plan) to (?:discuss|help|be (?:a part"
    r"|part|involved|responsible)|do (?:that|this)|talk|engage|participate|answer|go|take part|write|encourage"
    r"|support|contribute)"
    r"|have (?:the )?(?:permission|authori[sz]ation|authority|intention|any intention) to|have the (?:ability"
    r"|capability) to {_VERB}|do (?:that|this|requests|those)|write (?:that|such|this|content)"
    r"|(?:think|believe|feel)(?: that)? (?:i (?:can|should)"
    r"|(?:it|that|this) (?:is|would be) (?:right|appropriate|ethical|wise|responsible|proper|fair|okay|ok)"
    r" (?:for me|to))"
    r"|support (?:this|that|such|any|it)|encourage|endorse|promote|agree to|entertain|talk about (?:that|this"
    r"|such)|share (?:that|this|such|instructions|information))\b",
    rf"\bi {_SOME}(?:refuse(?! to (?:believe|accept|give up|let|think|be))|decline|must {_SOME}(?:decline"
    rf"|refuse|pass|abstain|reject)|have to {_SOME}(?:decline|refuse|say no|pass|reject|stop|draw)"
    rf"|need to (?:decline|refuse|say no|stop|pass)"
    r"|am (?:going to have to |having to |forced to |obliged to |obligated to |compelled to )(?:decline|refuse"
    r"|say no|pass)|am declining|am refusing|am (?:going|choosing) to (?:decline|refuse|pass|say no)"
    r"|will (?:have to |need to |be )?(?:decline|refuse|declining|refusing|pass on|say no)|would (?:have to "
    r"|need to )?(?:decline|refuse|pass on)"
    r"|reject (?:this|that|your|the)|choose not to|prefer not|would (?:much |really |strongly )?(?:prefer"
    r"|rather|sooner) (?:not|avoid|that we not|to (?:avoid|not|stay|steer|talk|discuss|focus|keep)|avoid|stay"
    r"|steer|skip|keep|leave|we|talk about something|discuss something|focus on something)"
    r"|want no part|draw (?:a|the) line|am out\b|beg off|pass on (?:that|this))\b",
    rf"\b(?:i )?am {_SOME}(?:not |un)comfortable (?:with (?:this|that|the|your|where|what|such|helping"
    rf"|providing|doing)|to|\w+ing|going|where)",
    rf"\bi am {_SOME}not (?:comfortable|going to (?:help|do|go|touch|answer|be|write|give|talk|play)"
    rf"|doing (?:that|this)|interested in (?:helping|\w+ing|that|doing)|the right (?:assistant|one|tool|place)"
    rf"|willing|prepared|in the business|supposed|having this|touching|answering|the one to)",
    r"\bi am (?:programmed|designed|trained|built|made|here|meant|bound|required|intended|instructed"
    r"|configured)(?: only)? (?:not to|to (?:avoid|refuse|decline|only|be (?:helpful harmless|safe|a safe"
    r"|respectful|ethical)|promote (?:safe|respect|positiv|ethic)\w*|follow (?:strict|ethical|safety)"
    r"|prioriti[sz]e safety|uphold|adhere|prevent))",
    r"\bi have (?:no|zero) (?:intention|interest|wish|desire|plans?|advice|comment) ?(?:of|in|to|for|$|\|)",
    r"\bi (?:strongly |firmly |absolutely |do )?(?:condemn|object to|am opposed to|stand against) (?:this|that"
    r"|any|all|the use|such|violence|hate|what)",
    # sorry, but no
    rf"\b(?:sorry|apologi[sz]e|apologies|regret|afraid|unfortunately|regrettably"
    rf"|alas)\b(?: \w+){{0,8}}? {_DENIAL} {_SOME}(?:{_VERB}|be)\b",
    r"\b(?:sorry|apologi[sz]e|apologies|regret|afraid)\b(?: \w+){0,3}? (?:that|this|it|request|question"
    r"|topic) (?:is|would be|seems) (?:not (?:possible|something|appropriate|on|for me|allowed|ok|okay|a)"
    r"|never|a no|against|off limits|beyond|out of|outside|too far)\b",
    r"\b(?:sorry|apologi[sz]e|apologies) (?:but )?(?:no\b|not (?:going|happening|today|this|that|something"
    r"|possible)|that is (?:a no|not|off|out|beyond|against)|this is (?:a no|not|off|out|beyond|against)"
    r"|your request|the request|what you)",
    r"^(?:(?:i am|we are|oh|no|my) )?(?:so |very |truly |really |deeply |terribly )?(?:sorry|apologies"
    r"|i apologi[sz]e)(?: about that| for (?:that|the inconvenience|any inconvenience))?$",
    # no, in other words
    r"(?:^|\| )(?:(?:absolutely|definitely|certainly|of course|hell|hard|sorry|oh|um|uh|yeah|no|nope"
    r"|well) )*(?:no way|not a chance|no chance|hard pass|no can do|nice try|no thanks|no thank you|no deal"
    r"|no comment|count me out|leave me out|not happening|not going to happen|not on my watch|over my dead body"
    r"|my lips are sealed|nothing doing|no dice|out of the question|forget (?:it|about it)|dream on"
    r"|i think not|request (?:denied|declined|refused"
    r"|rejected|blocked)|access denied|permission denied|content blocked|not today|i pass|i will pass"
    r"|pass)(?: $|$| \||\b(?= (?:i|we|that|this|my|on that|on this|to that|sorry|thanks)\b))",
    rf"\b(?:that|this|it|which|what you are asking(?: for)?|your {THING}|this {THING}|that {THING}"
    rf"|the {THING}|such {THING}|the answer) (?:is|are|would be|falls|lies|goes|remains|seems) {_SOME}(?:not"
    rf"|never|nothing|hardly) {_SOME}(?:something|a {THING}|an {THING}|{THING}|anything|the kind of thing"
    rf"|the sort of thing|one) (?:that |which |for which )?(?:i|we)\b",
    rf"\b(?:something|anything|nothing|a {THING}|things|an {THING}) (?:that |which )?(?:i"
    rf"|we) {_SOME}(?:{_DENIAL}|do not|would not|would rather not|prefer not|refuse|decline) {_SOME}(?:to "
    rf"|be )?(?:{_VERB}|involved|comfortable|want|wish|get|part|do|go|cross|take)\b",
    r"\bnot (?:something|anything|a topic|a subject|a conversation|a question|an area) (?:that |which )?(?:i"
    r"|we) (?:can|could|will|would|want|am|feel|should|do|wish|intend|have|know|plan|care|engage|discuss"
    r"|support|assist|help|offer|provide|talk)",
    rf"\b(?:that|this|it|your {THING}|this {THING}|that {THING}|the {THING}|what you (?:are asking|ask|want"
    rf"|requested)(?: for)?) (?:is|are|falls|lies|goes|would be|would fall|seems|crosses"
    rf"|violates) {_SOME}(?:off limits|off the table|out of bounds|a line|outside (?:of )?(?:my|what i"
    rf"|the scope)|beyond (?:my|what i|the scope|the bounds)|out of my|above my|against (?:my|our|openai|what i"
    rf"|all i)|(?:my|our) {_RULES}|not for me)",
    rf"\b(?:against|violat\w+|contrary to|conflicts? with|breach\w*|not (?:in line|consistent|aligned"
    rf"|compatible) with|inconsistent with|goes against|prohibited by|not permitted by|outside|due to"
    rf"|because of|per|under|according to|bound by|respect|follow|by) (?:the )?(?:my|our|openai\w*|anthropic\w*"
    rf"|google\w*|meta|safety|content|usage|community|ethical|platform|ethics) (?:\w+ ){{0,3}}{_RULES}\b",
    rf"\b(?:my|our) (?:\w+ ){{0,2}}{_RULES} (?:prevents?|prohibits?|forbids?|do not|does not|stops?|keeps?"
    rf"|restricts?|bars?|will not|would not|cannot|limits?|are (?:clear|strict)|is to)",
    rf"\b(?:your|this|that|such) (?:{THING}|requests) (?:cannot|will not|must not|may not|has been|was|is|are"
    rf"|have been|is being) (?:be )?(?:fulfilled|answered|completed|granted|discussed|processed|refused"
    rf"|declined|denied|rejected|blocked|flagged|supported|accommodated|accepted|honou?red|shared|provided"
    rf"|generated|created)",
    r"\b(?:let us|let me|can we|could we|shall we|may we|why do not we|we should|maybe we (?:can|could|should)"
    r"|perhaps we (?:can|could|should)|how about we|i would like to|i suggest we|i would be happy to"
    r"|happy to) (?:\w+ )?(?:talk|chat|speak|discuss|focus|move|switch|change|steer|turn|keep|stick|explore"
    r"|shift|pick|stay|go|redirect|help(?: you)?)(?: \w+){0,4}? (?:something else|something (?:more|less|safer"
    r"|different|nicer|other|positive|constructive|legal|lawful|fun|lighter)|somewhere else|another (?:topic"
    r"|subject|question|way|direction|story)(?= \||$)|a different|other (?:topics?|subjects?|things?|questions?"
    r"|matters?)|away from|the (?:subject|topic|conversation)|safer|more (?:positive|constructive|pleasant"
    r"|appropriate)|on to other)",
    r"\b(?:change|switch) (?:the )?(?:subject|topic)\b(?! (?:lines?|fields?|under|of (?:an?|the|your|each|every))\b)",
    r"(?:^|\| )(?:please )?(?:ask (?:me )?(?:something|anything|about something) else|ask (?:me )?(?:another"
    r"|a different) question|choose (?:another|a different) (?:topic|question|task)|try (?:something"
    r"|asking something|a different|another) (?:else|question|topic|request))",
    r"\byou (?:will|would|should|may|might|need to|must|are going to)(?: have to| need to| want to"
    r"| be better off)? (?:look|go|find|ask|search|seek|figure|turn|try|get|consult|looking|finding"
    r"|asking)(?: \w+){0,4}? (?:elsewhere|someone else|somewhere else|somebody else|another source|without me"
    r"|(?:it|that|this) out yourself|on your own)",
    r"(?:^|\| )(?:please )?(?:look|ask|try|search|go) (?:elsewhere|somewhere else|someone else)\b"
    r"|\bfind (?:someone|somebody) else\b",
    rf"(?<!because )\b(?:it|that|this|doing so|to do so|helping (?:with that|you|with this)|providing (?:that|this"
    rf"|such \w+|\w+ \w+)|answering (?:that|this)|(?:giving|sharing|writing|describing|explaining|discussing|creating"
    rf"|doing|supporting)(?: you)? (?:that|this|such)(?: \w+)?) (?:would be|is|would feel|feels|seems"
    rf"|would not be|is not|would never be) {_SOME}(?:very |deeply |highly |extremely |morally |completely "
    rf"|just |quite |both )?{_WRONG}(?: and \w+| or \w+)? ?(?:$|\||of me|for me|on my part|if i|to (?:help"
    rf"|assist|provide|offer|give|share|create|write|generate|answer|support|encourage|promote|facilitate"
    rf"|discuss|engage|explain|tell|teach|make (?:such|that|this|jokes|fun)|use (?:such|that|hate)|comply"
    rf"|participate|do (?:so|that)))",
    r"\b(?:irresponsible|unethical|wrong|immoral|reckless|inappropriate) (?:of me|for me|for an ai|for anyone"
    r"|on my part) to\b|\b(?:irresponsible|unethical|reckless) to (?:help|assist|provide|offer|give|share"
    r"|create|write|generate|answer|support|encourage|explain|tell|teach|describe|hand|show|continue|engage)\b",
    r"\bas an? (?:\w+ ){0,4}?(?:ai|language model|assistant|chatbot|artificial intelligence"
    r"|model)(?: \w+){0,12}? (?:cannot|not able|unable|not (?:programmed|designed|appropriate|allowed|permitted"
    r"|capable|comfortable|provide|support|condone|engage)|do not (?:provide|support|condone|engage|promote"
    r"|encourage|assist|create|generate|offer)|will not|must (?:decline|refuse|prioriti\w+|adhere|follow)"
    r"|am (?:programmed|bound|designed) (?:not )?to)",
    r"\b(?:not my (?:place|job|role) to|not for me to|above my pay grade|none of (?:my|your) business|(?:my"
    r"|our) (?:answer|response) (?:is|to (?:that|this) is) no\b|(?:the|my) answer (?:is|stays"
    r"|remains)(?: \w+){0,2} (?:a (?:firm|clear|simple|hard) )?no$)",
    r"\bi can (?:only )?(?:help|assist)(?: you)? with (?:\w+ )?(?:lawful|legal|ethical|legitimate|safe|safer"
    r"|harmless)\b",
    r"\bi (?:can|will) only (?:help|assist|provide|answer|offer|discuss"
    r"|support) (?:you )?(?:with )?(?:\w+ ){0,3}?(?:legal|lawful|safe|ethical|legitimate|appropriate|harmless"
    r"|positive|respectful)",
    r"\bno (?:i|we) (?:am|will|would|do|cannot|can|must|refuse|have) (?:not |never )?(?:help|assist|do|going"
    r"|provide|engage|write|tell|give|be)",
)
"""Any of these makes a refusal."""
