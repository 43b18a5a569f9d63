#pragma once

// gRPC's own log lines go through ours, as debug: what they tell is in the statuses too.

namespace octavo {

void RouteGrpcLog();  // once per process; later calls do nothing

}  // namespace octavo
