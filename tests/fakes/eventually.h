#pragma once

// Waiting for what other threads do.

#include <chrono>
#include <thread>

namespace octavo {

// Looks every two milliseconds until `condition` holds; false when it did not within `limit`.
template <typename Condition>
bool Eventually(Condition condition, std::chrono::milliseconds limit = std::chrono::seconds(5)) {
  const auto until = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

}  // namespace octavo
