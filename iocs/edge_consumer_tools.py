"""How the tools of pvapy's streaming framework are started: their options for one set-up."""

import json
from dataclasses import dataclass

from iocs.edge_consumer_orders import Channels, Orders
from iocs.edge_messages import StreamConfig

GROUP_FRAMES = 8
"""Frames that the distributor gives one consumer before it turns to the next: a batch as it is set from the start."""
_COMMON = ("--skip-initial-updates", "0", "--disable-curses", "--log-level", "error")


@dataclass(frozen=True)
class Tools:
    """Options of a set-up's tools; those of `iocs.edge_consumer_child`."""

    config: StreamConfig
    channels: Channels

    @property
    def mirrored(self) -> bool:
        """Whether the frames need a mirror: a detector other than ours may have no distributor in its server."""
        return self.config.edge.stream is not None

    def consumer(self, number: int, orders: Orders) -> list[str]:
        """One consumer, which begins with `orders`."""
        channels, queue_frames = self.channels, self.config.edge.queue_frames
        arguments = {"orders": json.loads(orders.to_json()), "queue_frames": queue_frames}
        return [
            "consumer", "--consumer-id", str(number),
            "--input-channel", channels.mirror if self.mirrored else self.config.source,
            "--output-channel", channels.output,
            "--status-channel", channels.status, "--control-channel", channels.control,
            "--processor-class", "iocs.edge_processor.EdgeProcessor", "--processor-args", json.dumps(arguments),
            "--distributor-group", "phaseline", "--distributor-trigger", "timeStamp",
            "--distributor-updates", str(GROUP_FRAMES),
            "--server-queue-size", str(queue_frames), "--receiver-queue-size", str(queue_frames), *_COMMON,
        ]  # fmt: skip

    def collector(self) -> list[str]:
        """The collector of all consumers' outputs."""
        channels, edge = self.channels, self.config.edge
        return [
            "collector", "--producer-id-list", ",".join(map(str, range(1, edge.consumers + 1))),
            "--input-channel", channels.output, "--output-channel", channels.merged,
            "--status-channel", channels.merged_status, "--control-channel", channels.merged_control,
            "--processor-class", "iocs.edge_consumer_merge.Publisher",
            "--collector-cache-size", str(edge.queue_frames), "--server-queue-size", str(edge.queue_frames), *_COMMON,
        ]  # fmt: skip

    def mirror(self) -> list[str]:
        """The mirror of the detector's stream."""
        source, queue_frames = self.config.source, self.config.edge.queue_frames
        return ["mirror", source, "--channel-map", f"({self.channels.mirror},{source},pva,{queue_frames})"]
