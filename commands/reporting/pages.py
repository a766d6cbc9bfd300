"""Which charts each application has. What follows from the rollups is not said again: see `records`."""

from commands.reporting.records import (
    By,
    Chart,
    Colour,
    Hours,
    Over,
    Page,
    Ranking,
    Series,
    Shape,
    highest,
    mean,
    rest,
    rows,
    share,
    summed,
    the,
)
from models.analytics import (
    AttachmentsDaily,
    ConnectCallsDaily,
    ConnectDaily,
    EchoroomDaily,
    EchoroomHourly,
    OpenchatDaily,
    OpenchatMessagesDaily,
    PernDaily,
    PernSecurityDaily,
    PernSessionsDaily,
)
from models.audiorooms import AudioRoom, RoomAnalytics
from models.echoroom import ChatSession
from tasks.policies.columns import Column


def _quantiles(median: Column, p95: Column) -> tuple[Series, ...]:
    return (
        Series("median", the(median), Colour.BLUE),
        Series("95th percentile", the(p95), Colour.RED),
    )


def attachments(app: str) -> tuple[Chart, ...]:
    """Return what is shown of an application's attachments."""
    of_app = AttachmentsDaily.app == app
    return (
        Chart(
            title="Attachments by verdict",
            says="Files that were taken up that day, by the scan's result; 'none' has no verdict (yet).",
            where=of_app,
            series=By(
                summed(AttachmentsDaily.attachments),
                colours={
                    "clean": Colour.GREEN,
                    "infected": Colour.RED,
                    "suspicious": Colour.YELLOW,
                    "none": Colour.GREY,
                },
            ),
            headline="attachments",
        ),
        Chart(
            title="Attachments: size",
            says="Bytes of the files that were taken up that day, whatever the verdict.",
            where=of_app,
            series=(Series("size", summed(AttachmentsDaily.size_bytes)),),
            headline="of attachments",
        ),
        Chart(
            title="Attachments: time to a clean verdict",
            says="From when a file was taken up to when it was finished; clean files only. Half of a day's "
            "files took no longer than the median, 95 of 100 no longer than the 95th percentile.",
            where=of_app & (AttachmentsDaily.verdict == "clean"),
            series=_quantiles(
                AttachmentsDaily.processing_median_seconds, AttachmentsDaily.processing_p95_seconds
            ),
        ),
    )


AUDIOROOMS = Page(
    charts=(
        Chart(
            title="Listen minutes",
            says="Minutes that listeners spent in rooms that day; the rooms with the most, and all others.",
            series=By(
                summed(RoomAnalytics.total_listen_minutes),
                name=AudioRoom.code,
                top=6,
                others="other rooms",
            ),
            headline="of listening",
        ),
        Chart(
            title="Peak of listeners",
            says="The most listeners at once in one room that day: of the room that had most, and the mean "
            "of all rooms that had any. Rooms have theirs at different moments: peaks are not added up.",
            series=(
                Series("fullest room", highest(RoomAnalytics.peak_listeners), Colour.BLUE),
                Series(
                    "mean of the rooms",
                    mean(RoomAnalytics.peak_listeners, RoomAnalytics.peak_listeners > 0),
                    Colour.YELLOW,
                ),
            ),
            shape=Shape.LINES,
            over=Over.HIGHEST,
            headline="most listeners at once in a room",
        ),
        Chart(
            title="Room listeners",
            says="Different listeners of each room that day, added up: who was in three rooms counts three "
            "times, once per room.",
            series=(Series("room listeners", summed(RoomAnalytics.total_listeners)),),
            over=Over.HIGHEST,
            headline="most room listeners on a day",
        ),
        Chart(
            title="Rooms with listeners",
            says="Rooms that had at least one listener that day.",
            series=(Series("rooms", rows(RoomAnalytics.total_listeners > 0)),),
            over=Over.HIGHEST,
            headline="most rooms with listeners on a day",
        ),
    ),
    rankings=(
        Ranking(
            title="Busiest rooms",
            says="By listen minutes over all days shown. The peak is that of the fullest day.",
            name=AudioRoom.code,
            columns=(
                Series("listening", summed(RoomAnalytics.total_listen_minutes)),
                Series("highest peak", highest(RoomAnalytics.peak_listeners)),
                Series("most listeners on a day", highest(RoomAnalytics.total_listeners)),
                Series("days with listeners", rows(RoomAnalytics.total_listeners > 0)),
            ),
        ),
    ),
)

CONNECT = Page(
    charts=(
        Chart(
            title="Calls by outcome",
            says="Calls that began that day, by their outcome as it stands now.",
            series=(
                Series("female connected", summed(ConnectCallsDaily.female_connected), Colour.GREEN),
                Series("both left", summed(ConnectCallsDaily.both_left), Colour.BLUE),
                Series("timeout", summed(ConnectCallsDaily.timeout), Colour.YELLOW),
                Series("no action", summed(ConnectCallsDaily.no_action), Colour.CYAN),
                Series("no outcome", summed(ConnectCallsDaily.no_outcome), Colour.GREY),
            ),
            headline="calls",
        ),
        Chart(
            title="Connect rate",
            says="Of the calls that began that day, the share that a connection came of, or whose outcome "
            "says so.",
            series=(Series("connect rate", share(ConnectCallsDaily.connected, ConnectCallsDaily.calls)),),
        ),
        Chart(
            title="Median length of calls",
            says="Half of the calls of that day that have ended were no longer; each type by itself.",
            series=By(the(ConnectCallsDaily.median_seconds)),
        ),
        Chart(
            title="Long calls",
            says="The 95th percentile: 95 of 100 calls were no longer; each type by itself.",
            series=By(the(ConnectCallsDaily.p95_seconds)),
        ),
        Chart(
            title="Talk time",
            says="The length of all calls that began that day and have ended.",
            series=By(summed(ConnectCallsDaily.total_seconds)),
            headline="of talk",
        ),
        Chart(
            title="People",
            says="Different people in calls, and different people who sent a message, that day. Who comes on "
            "two days counts on each, so days are not added up.",
            series=(
                Series("in calls", the(ConnectDaily.users_in_calls), Colour.BLUE),
                Series("sent a message", the(ConnectDaily.senders), Colour.PURPLE),
            ),
            shape=Shape.LINES,
            over=Over.HIGHEST,
            headline="most people in calls on a day",
        ),
        Chart(
            title="Messages",
            says="Messages that were sent that day.",
            series=(Series("messages", the(ConnectDaily.messages)),),
            headline="messages",
        ),
        Chart(
            title="Video requests",
            says="Requests that were made that day, by what has become of them; 'unknown' have no status.",
            series=(
                Series("approved", the(ConnectDaily.requests_approved), Colour.GREEN),
                Series("rejected", the(ConnectDaily.requests_rejected), Colour.RED),
                Series("expired", the(ConnectDaily.requests_expired), Colour.YELLOW),
                Series("pending", the(ConnectDaily.requests_pending), Colour.CYAN),
                Series(
                    "unknown",
                    rest(
                        ConnectDaily.requests,
                        ConnectDaily.requests_approved,
                        ConnectDaily.requests_rejected,
                        ConnectDaily.requests_expired,
                        ConnectDaily.requests_pending,
                    ),
                    Colour.GREY,
                ),
            ),
            headline="video requests",
        ),
    ),
)

OPENCHAT = Page(
    charts=(
        Chart(
            title="Messages by type",
            says="Messages that were sent that day, deleted ones too.",
            series=By(
                summed(OpenchatMessagesDaily.messages),
                colours={"text": Colour.BLUE},
                top=6,
                others="other types",
            ),
            headline="messages",
        ),
        Chart(
            title="Active users",
            says="Different people who sent a message that day. Who comes on two days counts on each, so "
            "days are not added up.",
            series=(Series("active users", the(OpenchatDaily.active_users)),),
            over=Over.HIGHEST,
            headline="most active users on a day",
        ),
        Chart(
            title="Delivery time",
            says="From a message to its delivery, of messages sent that day. Half took no longer than the "
            "median, 95 of 100 no longer than the 95th percentile.",
            series=_quantiles(OpenchatDaily.delivery_median_seconds, OpenchatDaily.delivery_p95_seconds),
        ),
        Chart(
            title="Conversations",
            says="Different conversations that had a message that day.",
            series=(Series("conversations", the(OpenchatDaily.conversations)),),
            over=Over.HIGHEST,
            headline="most conversations on a day",
        ),
    ),
)

PERN = Page(
    charts=(
        Chart(
            title="Messages",
            says="Messages that were sent that day.",
            series=(Series("messages", the(PernDaily.messages)),),
            headline="messages",
        ),
        Chart(
            title="Active users",
            says="Different people who sent, or read, something that day. Who comes on two days counts on "
            "each, so days are not added up.",
            series=(Series("active users", the(PernDaily.active_users)),),
            over=Over.HIGHEST,
            headline="most active users on a day",
        ),
        Chart(
            title="Delivery time",
            says="From a message to its delivery, of deliveries of that day.",
            series=_quantiles(PernDaily.delivery_median_seconds, PernDaily.delivery_p95_seconds),
        ),
        Chart(
            title="Reading time",
            says="From a message to its being read, of messages that were read that day.",
            series=_quantiles(PernDaily.read_median_seconds, PernDaily.read_p95_seconds),
        ),
        Chart(
            title="Security events by severity",
            says="Entries of the audit log of that day.",
            series=By(
                summed(PernSecurityDaily.events),
                colours={
                    "info": Colour.GREY,
                    "warning": Colour.YELLOW,
                    "error": Colour.PURPLE,
                    "critical": Colour.RED,
                    "security": Colour.BLUE,
                },
            ),
            headline="security events",
        ),
        Chart(
            title="Sessions",
            says="Sessions that began that day.",
            series=(Series("sessions", the(PernSessionsDaily.sessions)),),
            headline="sessions",
        ),
    ),
)

ECHOROOM = Page(
    charts=(
        Chart(
            title="Messages by type",
            says="Messages that were sent in rooms that day; 'other' have no type.",
            series=(
                Series("text", summed(EchoroomDaily.messages_text), Colour.BLUE),
                Series("AI prompt", summed(EchoroomDaily.messages_ai_prompt), Colour.PURPLE),
                Series("mood check", summed(EchoroomDaily.messages_mood_check), Colour.YELLOW),
                Series("system", summed(EchoroomDaily.messages_system), Colour.CYAN),
                Series(
                    "other",
                    rest(
                        EchoroomDaily.messages,
                        EchoroomDaily.messages_text,
                        EchoroomDaily.messages_ai_prompt,
                        EchoroomDaily.messages_mood_check,
                        EchoroomDaily.messages_system,
                    ),
                    Colour.GREY,
                ),
            ),
            headline="messages",
        ),
        Chart(
            title="Room participants",
            says="Different people of each room that day, and those of them who were seen speaking, added up "
            "over the rooms: people count once per room.",
            series=(
                Series("in a room", summed(EchoroomDaily.participants), Colour.BLUE),
                Series("seen speaking", summed(EchoroomDaily.speakers), Colour.GREEN),
            ),
            shape=Shape.LINES,
            over=Over.HIGHEST,
            headline="most room participants on a day",
        ),
        Chart(
            title="Peak of participants",
            says="The most people at once in one room that day: of the room that had most. Rooms have "
            "theirs at different moments: peaks are not added up.",
            series=(Series("fullest room", highest(EchoroomDaily.peak_participants)),),
            over=Over.HIGHEST,
            headline="most people at once in a room",
        ),
        Chart(
            title="Reactions",
            says="Reactions to messages that were given that day.",
            series=(Series("reactions", summed(EchoroomDaily.reactions)),),
            headline="reactions",
        ),
    ),
    hours=(
        Hours(
            title="When people are there",
            says="Room participants by weekday and hour (UTC), people counted once per room and hour: the "
            "mean of the hours shown that are closed.",
            statistic=summed(EchoroomHourly.participants),
        ),
        Hours(
            title="When people write",
            says="Messages by weekday and hour (UTC): the mean of the hours shown that are closed.",
            statistic=summed(EchoroomHourly.messages),
        ),
    ),
    rankings=(
        Ranking(
            title="Busiest rooms",
            says="By messages over all days shown. The peak is that of the fullest day.",
            name=ChatSession.category,
            columns=(
                Series("messages", summed(EchoroomDaily.messages)),
                Series("reactions", summed(EchoroomDaily.reactions)),
                Series("highest peak", highest(EchoroomDaily.peak_participants)),
                Series("most people on a day", highest(EchoroomDaily.participants)),
            ),
        ),
    ),
)

#: Of each application that has statistics.
PAGES = {
    "echoroom": ECHOROOM,
    "openchat": OPENCHAT,
    "connect": CONNECT,
    "pern": PERN,
    "audiorooms": AUDIOROOMS,
}
