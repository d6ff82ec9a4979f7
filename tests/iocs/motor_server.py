"""Two motors that move, over Channel Access: the first upwards, the second downwards. Prints `ready`."""

import sys

from caproto.server import PVGroup, pvproperty, run


def main(x_name, y_name):
    class Motors(PVGroup):
        x = pvproperty(value=1.0, name=x_name)
        y = pvproperty(value=-1.0, name=y_name)

        @x.startup
        async def x(self, _, library):
            print("ready", flush=True)
            while True:
                await library.library.sleep(0.1)  # the pace of a motor, not a wait for something to happen
                await self.x.write(self.x.value + 0.1)
                await self.y.write(-self.x.value)

    run(Motors(prefix="").pvdb, log_pv_names=False)


main(*sys.argv[1:])
