#pragma once

// The leader's streams to its followers: each step goes down all of them, each follower's
// acknowledgement comes up. A stream that ends is a rank that is gone.

#include <string>
#include <vector>

#include "worker/serve/rank_host.h"

namespace octavo {

// Opens one stream to each address (ranks 1, 2, ...) and returns at once. `token` goes with the
// calls. A stream lives as long as a function of the result.
FollowerLink MakeFollowerLink(const std::vector<std::string>& addresses, const std::string& token);

}  // namespace octavo
