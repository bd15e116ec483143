"""What agents ask models, as templates: each in several wordings, and in wordings that say otherwise.

`ways` mean the same; `otherwise` mean something else with the same slots: negated, turned round,
another question, another unit. A slot is `{kind}` or `{kind:n}`; kinds stand in `agent_prompts`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Template:
    """One task of an agent."""

    name: str
    ways: tuple[str, ...]
    otherwise: tuple[str, ...]


def _of(name: str, ways: str, otherwise: str) -> Template:
    def lines(text: str) -> tuple[str, ...]:
        return tuple(line.strip() for line in text.strip().splitlines())

    return Template(name, lines(ways), lines(otherwise))


TEMPLATES = (
    _of(
        "refund",
        """Refund order {id} for {person}; the parcel arrived damaged.
        {person}'s parcel came damaged. Please refund order {id}.
        The delivery of order {id} to {person} was damaged, so give the money back.
        Issue a refund on order {id}: {person} received a damaged parcel.""",
        """Do not refund order {id} for {person}; the parcel arrived damaged.
        Refund order {id} for {person}; the parcel never arrived.
        Replace order {id} for {person}; the parcel arrived damaged.""",
    ),
    _of(
        "ticket-summary",
        """Summarise support ticket {id} in {small} sentences for the team {team}.
        Give the {team} team a summary of support ticket {id}, {small} sentences long.
        In {small} sentences, what is support ticket {id} about? The summary goes to team {team}.
        Write a {small}-sentence summary of ticket {id} for {team}.""",
        """Summarise support ticket {id} in {small} words for the team {team}.
        Write an answer to support ticket {id} in {small} sentences for the team {team}.
        Summarise support ticket {id} in {small} paragraphs for the team {team}.""",
    ),
    _of(
        "ticket-status",
        """Set ticket {id} to {status} and tell {person}.
        Change the status of ticket {id} to {status}, then inform {person}.
        Mark ticket {id} as {status} and let {person} know.
        Let {person} know that ticket {id} is {status} now, and mark it so.""",
        """Set ticket {id} to {status} but do not tell {person}.
        Was ticket {id} set to {status} by {person}?
        Set every ticket except {id} to {status} and tell {person}.""",
    ),
    _of(
        "open-tickets",
        """How many {status} tickets does {team} have since {date}?
        Count the tickets of team {team} that are {status}, from {date} on.
        Since {date}, what is the number of {status} tickets in team {team}?
        What is the count of {team}'s {status} tickets since {date}?""",
        """How many {status} tickets did {team} have before {date}?
        How many tickets that are not {status} does {team} have since {date}?
        Who works on the {status} tickets of {team} since {date}?""",
    ),
    _of(
        "sql-top",
        """Write SQL that returns the {small} customers with the highest revenue in {city} since {date}.
        Give me an SQL query for the top {small} customers by revenue in {city} from {date} on.
        I need a SQL statement: the {small} customers in {city} with the most revenue since {date}.
        SQL, please: which {small} customers in {city} brought the highest revenue since {date}?""",
        """Write SQL that returns the {small} customers with the lowest revenue in {city} since {date}.
        Write SQL that returns the {small} customers with the highest revenue in {city} until {date}.
        Write SQL that returns the {small} products with the highest revenue in {city} since {date}.""",
    ),
    _of(
        "sql-join",
        """Join the tables {table:1} and {table:2} on customer_id and keep rows newer than {date}.
        Write a query that joins {table:1} with {table:2} by customer_id, only rows after {date}.
        Keep only rows newer than {date} and join {table:1} to {table:2} on customer_id.""",
        """Join the tables {table:1} and {table:2} on customer_id and keep rows older than {date}.
        Union the tables {table:1} and {table:2} and keep rows newer than {date}.
        Join the tables {table:1} and {table:2} on order_id and keep rows newer than {date}.""",
    ),
    _of(
        "sql-delete",
        """Delete the rows of {table} where the status is {status}.
        Remove every row from {table} whose status is {status}.
        From table {table}, drop all rows with status {status}.
        In {table}, rows with the status {status} should be deleted.""",
        """Delete the rows of {table} where the status is not {status}.
        Select the rows of {table} where the status is {status}.
        Delete the rows of {table} unless the status is {status}.""",
    ),
    _of(
        "sql-index",
        """Why is the query on {table} slow when filtering by {column}?
        What makes filtering {table} by {column} slow?
        Filtering by {column} on {table} takes long. What is the cause?
        Explain why a filter on {column} makes queries on {table} slow.""",
        """Why is the query on {table} fast when filtering by {column}?
        How slow is the query on {table} when filtering by {column}?
        Why is the query on {table} slow when sorting by {column}?""",
    ),
    _of(
        "deploy",
        """Deploy version {version} of {service} to {env}.
        Roll out {service} {version} in the {env} environment.
        Please ship {service} at version {version} to {env}.
        Release {version} of the service {service} on {env}.""",
        """Roll back {service} from version {version} in {env}.
        Do not deploy version {version} of {service} to {env}.
        Is version {version} of {service} deployed to {env}?""",
    ),
    _of(
        "scale",
        """Scale {service} in {env} up to {small} replicas.
        Increase the replicas of {service} to {small} in {env}.
        Run {small} replicas of {service} in {env}, scaling it up.
        Raise {service}'s replica count in {env} to {small}.""",
        """Scale {service} in {env} up by {small} replicas.
        Scale {service} in {env} down to {small} replicas.
        How many replicas above {small} does {service} have in {env}?""",
    ),
    _of(
        "restart",
        """Restart the pod {service}-{id} because it is out of memory.
        The pod {service}-{id} ran out of memory, restart it.
        {service}-{id} has no memory left: please restart this pod.""",
        """Do not restart the pod {service}-{id} although it is out of memory.
        Restart the pod {service}-{id} because it is out of disk space.
        Delete the pod {service}-{id} because it is out of memory.""",
    ),
    _of(
        "alert",
        """Page {person} if the error rate of {service} rises above {percent}.
        If {service}'s error rate goes over {percent}, page {person}.
        {person} should be paged when more than {percent} of requests to {service} fail.
        When the error rate of {service} exceeds {percent}, send a page to {person}.""",
        """Page {person} if the error rate of {service} falls below {percent}.
        Page {person} unless the error rate of {service} rises above {percent}.
        Page {person} if the latency of {service} rises above {percent}.""",
    ),
    _of(
        "logs",
        """Find the errors in the logs of {service} between {time:1} and {time:2} on {date}.
        Search {service}'s logs on {date} from {time:1} to {time:2} for errors.
        Which errors did {service} log on {date} between {time:1} and {time:2}?
        On {date}, from {time:1} until {time:2}, what errors are in the log of {service}?""",
        """Find the warnings in the logs of {service} between {time:1} and {time:2} on {date}.
        Delete the errors in the logs of {service} between {time:1} and {time:2} on {date}.
        Find everything but the errors in the logs of {service} between {time:1} and {time:2} on {date}.""",
    ),
    _of(
        "traffic",
        """Shift {percent} of the traffic from {service:1} to {service:2}.
        Move {percent} of requests away from {service:1} and onto {service:2}.
        Send {percent} of {service:1}'s traffic to {service:2} instead.
        {service:2} should take over {percent} of the traffic of {service:1}.""",
        """Mirror {percent} of the traffic from {service:1} to {service:2}.
        Shift all but {percent} of the traffic from {service:1} to {service:2}.
        Shift {percent} of the traffic back to {service:1} from {service:2}.""",
    ),
    _of(
        "meeting",
        """Schedule a meeting with {person} on {date} at {time}.
        Set up a meeting on {date}, {time}, with {person}.
        Book a slot with {person} for {date} at {time}.
        Arrange to meet {person} at {time} on {date}.""",
        """Cancel the meeting with {person} on {date} at {time}.
        Is there a meeting with {person} on {date} at {time}?
        Schedule a meeting with {person} on any day but {date} at {time}.""",
    ),
    _of(
        "move-meeting",
        """Move my meeting with {person} from {date:1} to {date:2}.
        Reschedule the appointment with {person}: not {date:1} but {date:2}.
        My meeting with {person} on {date:1} should take place on {date:2}.
        Change the date of the meeting with {person} from {date:1} to {date:2}.""",
        """Copy my meeting with {person} from {date:1} to {date:2}.
        Keep my meeting with {person} on {date:1}, cancel the one on {date:2}.
        Who moved my meeting with {person} from {date:1} to {date:2}?""",
    ),
    _of(
        "free-slot",
        """When is {person} free for {minutes} minutes after {date}?
        Find a free slot of {minutes} minutes in {person}'s calendar after {date}.
        Look for {minutes} free minutes with {person} later than {date}.
        After {date}, when does {person} have {minutes} minutes?""",
        """When is {person} free for {minutes} minutes before {date}?
        When is {person} busy for {minutes} minutes after {date}?
        When is {person} free for {minutes} hours after {date}?""",
    ),
    _of(
        "remind",
        """Remind {person} {minutes} minutes before the call with {company}.
        {minutes} minutes ahead of the call with {company}, send {person} a reminder.
        Send a reminder to {person} when {minutes} minutes remain until the call with {company}.""",
        """Remind {person} {minutes} minutes after the call with {company}.
        Remind {person} {minutes} hours before the call with {company}.
        Do not remind {person} {minutes} minutes before the call with {company}.""",
    ),
    _of(
        "extract-invoice",
        """Extract the total and the due date from invoice {id} of {company}.
        From {company}'s invoice {id}, read the total amount and when it is due.
        What are the total and the due date on invoice {id} from {company}?
        Read invoice {id} by {company} and return its due date and its total.""",
        """Extract the tax and the due date from invoice {id} of {company}.
        Extract the total and the issue date from invoice {id} of {company}.
        Extract everything except the total and the due date from invoice {id} of {company}.""",
    ),
    _of(
        "pay-invoice",
        """Pay {money} to {company} for invoice {id}.
        Transfer {money} to {company} to settle invoice {id}.
        Settle invoice {id}: {company} gets {money}.
        Send a payment of {money} to {company} for invoice {id}.""",
        """Request {money} from {company} for invoice {id}.
        Do not pay {money} to {company} for invoice {id}.
        Has {money} been paid to {company} for invoice {id}?""",
    ),
    _of(
        "transfer",
        """Transfer {money} from the account of {person:1} to the account of {person:2}.
        Move {money} out of {person:1}'s account into {person:2}'s.
        Take {money} from {person:1}'s account and put it on that of {person:2}.
        {person:2}'s account should receive {money} from the account of {person:1}.""",
        """Transfer up to {money} from the account of {person:1} to the account of {person:2}.
        Cancel the transfer of {money} from the account of {person:1} to the account of {person:2}.
        Did {person:1} transfer {money} to the account of {person:2}?""",
    ),
    _of(
        "expense",
        """Approve {person}'s expense report {id} if it is below {money}.
        If expense report {id} of {person} is less than {money}, approve it.
        Expense report {id} by {person} should be approved provided that it is under {money}.""",
        """Approve {person}'s expense report {id} if it is above {money}.
        Reject {person}'s expense report {id} if it is below {money}.
        Approve {person}'s expense report {id} even if it is not below {money}.""",
    ),
    _of(
        "translate",
        """Translate the following note from {language:1} to {language:2}.
        Please render this {language:1} note in {language:2}.
        Turn the note below, written in {language:1}, into {language:2}.
        I need the following {language:1} note in {language:2}.""",
        """Summarise the following note from {language:1} in {language:2}.
        Translate the following note from {language:1} to anything but {language:2}.
        Is the following note written in {language:1} or in {language:2}?""",
    ),
    _of(
        "email",
        """Write a polite email to {person} saying that the delivery will be {small} days late.
        Draft a courteous mail telling {person} that the delivery is delayed by {small} days.
        Compose a friendly email that informs {person} of a {small} day delay of the delivery.
        {person} must learn by a polite email that the delivery comes {small} days late.""",
        """Write a polite email to {person} saying that the delivery will be {small} days early.
        Write a polite email to {person} saying that the delivery will be {small} weeks late.
        Write a polite email to {person} asking whether the delivery will be {small} days late.""",
    ),
    _of(
        "classify",
        """Is the following review of {product} positive or negative?
        Tell me if this {product} review is positive or negative.
        Classify the sentiment of the following review of {product}: positive or negative.
        Decide whether the review of {product} below is positive or negative.""",
        """Is the following review of {product} true or fake?
        Write a positive and a negative review of {product}.
        Is the following question about {product} positive or negative?""",
    ),
    _of(
        "compare-products",
        """Is {product:1} cheaper than {product:2} in {city}?
        In {city}, does {product:1} cost less than {product:2}?
        Does one pay less for {product:1} than for {product:2} in {city}?
        Compare the prices in {city}: is {product:1} the cheaper one, against {product:2}?""",
        """Is {product:1} more expensive than {product:2} in {city}?
        Is {product:1} better than {product:2} in {city}?
        Is {product:1} as cheap as {product:2} in {city}?""",
    ),
    _of(
        "stock",
        """How many units of {product} are in stock in {city}?
        What is the stock of {product} in {city}?
        Tell me the number of {product} units available in {city}.
        In {city}, how many pieces of {product} do we have in stock?""",
        """How many units of {product} were sold in {city}?
        How many units of {product} are missing in {city}?
        Since when are units of {product} in stock in {city}?""",
    ),
    _of(
        "reorder",
        """Order {count} more units of {product} when stock falls below {small}.
        When fewer than {small} remain in stock, reorder {count} units of {product}.
        As soon as the stock of {product} drops under {small}, buy {count} more.""",
        """Order {count} more units of {product} when stock rises above {small}.
        Sell {count} more units of {product} when stock falls below {small}.
        Order {count} more boxes of {product} when stock falls below {small}.""",
    ),
    _of(
        "shipping",
        """Ship order {id} from {city:1} to {city:2} by {date}.
        Order {id} has to be sent from {city:1} to {city:2} no later than {date}.
        Send order {id} out of {city:1}; it must reach {city:2} by {date}.
        By {date}, deliver order {id} from {city:1} to {city:2}.""",
        """Ship order {id} from {city:1} to {city:2} after {date}.
        Do not ship order {id} from {city:1} to {city:2} by {date}.
        Track order {id} from {city:1} to {city:2} by {date}.""",
    ),
    _of(
        "flight",
        """Find the cheapest flight from {city:1} to {city:2} on {date}.
        What is the least expensive flight on {date} from {city:1} to {city:2}?
        I want to fly from {city:1} to {city:2} on {date} as cheaply as possible.
        Search for the lowest fare from {city:1} to {city:2} on {date}.""",
        """Find the fastest flight from {city:1} to {city:2} on {date}.
        Find the cheapest train from {city:1} to {city:2} on {date}.
        Find the cheapest flight from {city:1} to {city:2} and back on {date}.""",
    ),
    _of(
        "weather",
        """What will the weather be like in {city} on {date}?
        Give me the weather forecast for {city} on {date}.
        How is the weather going to be on {date} in {city}?
        Forecast for {city}, {date}, please.""",
        """Why was the weather bad in {city} on {date}?
        What time will the sun rise in {city} on {date}?
        How will the traffic be in {city} on {date}?""",
    ),
    _of(
        "convert",
        """Convert {count} kilometres to miles.
        How many miles are {count} kilometres?
        What is {count} km in miles?
        Express {count} kilometres in miles.""",
        """Convert {count} miles to kilometres.
        Convert {count} kilometres to metres.
        Convert {count} kilograms to pounds.""",
    ),
    _of(
        "code-review",
        """Review pull request {id} of {service} and list the bugs.
        Look through pull request {id} in {service} and name all bugs.
        Which bugs does pull request {id} of {service} contain? Review it.
        List the bugs that you find while reviewing {service}'s pull request {id}.""",
        """Merge pull request {id} of {service} and list the bugs.
        Review pull request {id} of {service} and list the style problems.
        Review pull request {id} of {service} but do not list the bugs.""",
    ),
    _of(
        "unit-test",
        """Write a unit test in {code} for the function {column}.
        I need a {code} unit test that covers the function {column}.
        Create a unit test for {column}, in {code}.
        Test the function {column} by a unit test written in {code}.""",
        """Write an integration test in {code} for the function {column}.
        Delete the unit test in {code} for the function {column}.
        Why does the unit test in {code} for the function {column} fail?""",
    ),
    _of(
        "port-code",
        """Port the parser from {code:1} to {code:2}.
        Rewrite the {code:1} parser in {code:2}.
        Take the parser written in {code:1} and translate it into {code:2}.
        The parser is in {code:1}; convert it to {code:2}.""",
        """Call the parser in {code:1} from {code:2}.
        Port the printer from {code:1} to {code:2}.
        Port the parser back from {code:2} to {code:1}.""",
    ),
    _of(
        "regex",
        """Write a regular expression that matches numbers of exactly {small} digits.
        Give me a regex for numbers with exactly {small} digits.
        Which regular expression finds numbers that have exactly {small} digits?
        A regex, please, matching numbers {small} digits long, no more and no fewer.""",
        """Write a regular expression that matches numbers of at least {small} digits.
        Write a regular expression that matches words of exactly {small} letters.
        Write a regular expression that matches everything but numbers of exactly {small} digits.""",
    ),
    _of(
        "permission",
        """Grant {person} write access to {table} in {env}.
        Give {person} permission to write to {table} in {env}.
        Allow {person} to write into {env}'s table {table}.
        {person} needs the right to write {table} in {env}; grant it.""",
        """Revoke {person}'s write access to {table} in {env}.
        Grant {person} read access to {table} in {env}.
        Does {person} have write access to {table} in {env}?""",
    ),
    _of(
        "user-disable",
        """Disable the account of {person} after {small} failed logins.
        Lock {person}'s account once {small} logins have failed.
        When {person} fails to log in {small} times, disable the account.""",
        """Enable the account of {person} after {small} failed logins.
        Disable the account of {person} after {small} successful logins.
        Warn {person} after {small} failed logins without disabling the account.""",
    ),
    _of(
        "backup",
        """Back up {table} in {env} every {minutes} minutes.
        Make a backup of {env}'s {table} each {minutes} minutes.
        Every {minutes} minutes, {table} in {env} should be backed up.
        Take backups of {table} in {env} at intervals of {minutes} minutes.""",
        """Restore {table} in {env} every {minutes} minutes.
        Back up {table} in {env} every {minutes} hours.
        Stop backing up {table} in {env} every {minutes} minutes.""",
    ),
    _of(
        "restore",
        """Restore {table} from the backup of {date} into {env}.
        Bring {table} in {env} back to the backup taken on {date}.
        Use the {date} backup to restore {table} in {env}.
        Load the backup from {date} for {table} into {env}.""",
        """Delete the backup of {date} of {table} in {env}.
        Back up {table} in {env} on {date}.
        Restore {table} from the oldest backup after {date} into {env}.""",
    ),
    _of(
        "report",
        """Report the revenue of {company} in {month} {year}.
        What revenue did {company} make in {month} {year}?
        Give me {company}'s revenue for {month} {year}.
        For {month} {year}, how high was the revenue of {company}?""",
        """Report the costs of {company} in {month} {year}.
        Report the revenue of {company} since {month} {year}.
        Report the revenue growth of {company} in {month} {year}.""",
    ),
    _of(
        "growth",
        """Did the sales of {product} increase by more than {percent} in {month}?
        In {month}, did {product}'s sales go up by over {percent}?
        Was the rise in sales of {product} in {month} greater than {percent}?
        Check whether sales of {product} grew by more than {percent} in {month}.""",
        """Did the sales of {product} decrease by more than {percent} in {month}?
        Did the sales of {product} increase by less than {percent} in {month}?
        Did the returns of {product} increase by more than {percent} in {month}?""",
    ),
    _of(
        "churn",
        """Which customers in {city} have not ordered for {small} months?
        List the customers from {city} without an order in the last {small} months.
        Name the customers in {city} who have ordered nothing for {small} months.
        Who among our {city} customers has placed no order for {small} months?""",
        """Which customers in {city} have ordered for {small} months?
        Which customers in {city} have not ordered for {small} weeks?
        Which customers in {city} have not paid for {small} months?""",
    ),
    _of(
        "leave",
        """Approve {person}'s leave from {date:1} to {date:2}.
        {person} may be away from {date:1} until {date:2}; approve the leave.
        Grant the leave that {person} asked for, {date:1} to {date:2}.
        Accept the request of {person} for leave between {date:1} and {date:2}.""",
        """Deny {person}'s leave from {date:1} to {date:2}.
        Did anybody approve {person}'s leave from {date:1} to {date:2}?
        Ask {person} to take leave from {date:1} to {date:2}.""",
    ),
    _of(
        "hire",
        """Write a job advert for a {code} developer in {city}.
        Draft a job posting: {code} developer, {city}.
        We are hiring a {code} developer in {city}. Write the advert.
        Create an advertisement for the position of {code} developer in {city}.""",
        """Write a rejection for a {code} developer in {city}.
        Write a job advert for a {code} trainer in {city}.
        Write a job application as a {code} developer in {city}.""",
    ),
    _of(
        "candidate",
        """Compare the candidates {person:1} and {person:2} for team {team}.
        For team {team}, how do the candidates {person:1} and {person:2} compare?
        Make a comparison between {person:1} and {person:2}, both candidates for team {team}.""",
        """Reject the candidates {person:1} and {person:2} for team {team}.
        Introduce the candidates {person:1} and {person:2} to team {team}.
        Compare the candidates {person:1} and {person:2} without team {team}.""",
    ),
    _of(
        "escalate",
        """Escalate incident {id} from {person:1} to {person:2}.
        Hand incident {id} over from {person:1} to {person:2}, as an escalation.
        Incident {id} should be escalated: {person:1} passes it on to {person:2}.""",
        """Close incident {id} of {person:1} and tell {person:2}.
        Do not escalate incident {id} from {person:1} to {person:2}.
        Why was incident {id} escalated from {person:1} to {person:2}?""",
    ),
    _of(
        "postmortem",
        """What caused incident {id} in {service} on {date}?
        Find the root cause of {service}'s incident {id} on {date}.
        Why did incident {id} happen in {service} on {date}?
        Explain the reason for incident {id}, {service}, {date}.""",
        """What did incident {id} in {service} on {date} cause?
        Who reported incident {id} in {service} on {date}?
        What ended incident {id} in {service} on {date}?""",
    ),
    _of(
        "certificate",
        """Renew the certificate of {domain} {small} days before it expires.
        The certificate for {domain} should be renewed {small} days ahead of its expiry.
        {small} days before expiry, renew {domain}'s certificate.""",
        """Revoke the certificate of {domain} {small} days before it expires.
        Renew the certificate of {domain} {small} days after it expires.
        Renew the certificate of {domain} {small} hours before it expires.""",
    ),
    _of(
        "dns",
        """Point {domain:1} to {domain:2}.
        Make {domain:1} an alias of {domain:2}.
        {domain:1} should resolve to {domain:2}.
        Set the DNS record of {domain:1} so that it points to {domain:2}.""",
        """Stop {domain:1} from pointing to {domain:2}.
        Does {domain:1} point to {domain:2}?
        Redirect all except {domain:1} to {domain:2}.""",
    ),
    _of(
        "limit",
        """Limit {service} to at most {count} requests per second.
        {service} must not get more than {count} requests a second.
        Cap the requests to {service} at {count} per second.
        Set a rate limit of {count} requests per second on {service}.""",
        """Limit {service} to at most {count} requests per minute.
        Guarantee {service} at least {count} requests per second.
        Remove the limit of {count} requests per second from {service}.""",
    ),
    _of(
        "discount",
        """Give {company} a discount of {percent} on {product}.
        {company} gets {percent} off on {product}.
        Take {percent} off the price of {product} for {company}.
        Lower the price of {product} for {company} by {percent}.""",
        """Raise the price of {product} for {company} by {percent}.
        Give {company} a discount of {percent} on everything but {product}.
        Lower the price of {product} for {company} to {percent}.""",
    ),
    _of(
        "contract",
        """When does the contract between {company:1} and {company:2} end?
        What is the end date of the contract of {company:1} with {company:2}?
        On which day does {company:1}'s contract with {company:2} expire?
        Tell me when the agreement between {company:1} and {company:2} runs out.""",
        """When does the contract between {company:1} and {company:2} begin?
        Why does the contract between {company:1} and {company:2} end?
        Who signed the contract between {company:1} and {company:2}?""",
    ),
    _of(
        "owe",
        """How much does {company:1} owe {company:2} as of {date}?
        As of {date}, what is the debt of {company:1} to {company:2}?
        What amount does {company:1} have to pay {company:2}, as of {date}?""",
        """How much has {company:1} paid {company:2} as of {date}?
        Since when does {company:1} owe {company:2} as of {date}?
        How much does {company:1} owe everyone but {company:2} as of {date}?""",
    ),
    _of(
        "reply",
        """Reply to {person} that we accept the offer of {money}.
        Tell {person} in a reply that the offer of {money} is accepted.
        Answer {person}: we take the offer of {money}.
        Let {person} know that we agree to the offer of {money}.""",
        """Reply to {person} that we decline the offer of {money}.
        Ask {person} whether they accept the offer of {money}.
        Reply to {person} that we do not accept the offer of {money}.""",
    ),
    _of(
        "temperature",
        """Keep the cold store in {city} below {small} degrees.
        The temperature in the {city} cold store must stay under {small} degrees.
        Make sure that the cold store in {city} never gets warmer than {small} degrees.""",
        """Keep the cold store in {city} above {small} degrees.
        Keep the cold store in {city} exactly at {small} degrees.
        Was the cold store in {city} ever below {small} degrees?""",
    ),
    _of(
        "subscribe",
        """Subscribe {person} to the newsletter of {company}.
        Sign {person} up for {company}'s newsletter.
        Add {person} to the recipients of the newsletter by {company}.
        {person} wants to receive {company}'s newsletter; subscribe them.""",
        """Unsubscribe {person} from the newsletter of {company}.
        Did {person} subscribe to the newsletter of {company}?
        Subscribe {person} to everything but the newsletter of {company}.""",
    ),
    _of(
        "quiz",
        """Write {small} exam questions about {topic} for beginners.
        Create {small} questions on {topic} for an exam of beginners.
        I need {small} beginner level exam questions on {topic}.
        Make up {small} questions about {topic} that beginners can be examined with.""",
        """Write {small} exam questions about {topic} for experts.
        Answer {small} exam questions about {topic} for beginners.
        Write {small} exercises without questions about {topic} for beginners.""",
    ),
    _of(
        "explain",
        """Explain {topic} to a {small} year old child.
        How would you explain {topic} to a child aged {small}?
        Describe {topic} so that a {small} year old understands it.
        Give an explanation of {topic} for a child of {small} years.""",
        """Explain why {topic} is not for a {small} year old child.
        Explain the history of {topic} to a {small} year old child.
        Who would explain {topic} to a {small} year old child?""",
    ),
    _of(
        "pros-cons",
        """List the advantages of {topic} for {company}.
        What are the benefits of {topic} for {company}?
        Which advantages does {topic} bring to {company}?
        Name the good sides of {topic} for {company}.""",
        """List the disadvantages of {topic} for {company}.
        List the risks of {topic} for {company}.
        List the advantages of {topic} over {company}.""",
    ),
)
