#pragma once

// Time, as a seam: production code takes a Clock so that tests can move it by hand.

#include <chrono>
#include <cstdint>

namespace octavo {

class Clock {
 public:
  using Nanos = std::chrono::nanoseconds;
  virtual ~Clock() = default;
  // Monotonic time since an arbitrary start.
  virtual Nanos Now() const = 0;
  // Time since the Unix epoch; for reports and logs only, never for decisions.
  virtual Nanos WallNow() const = 0;

  static Clock& System();
};

// A clock that moves only when told. Not thread-safe against Advance.
class ManualClock final : public Clock {
 public:
  Nanos Now() const override { return now_; }
  Nanos WallNow() const override { return now_; }
  void Advance(Nanos by) { now_ += by; }

 private:
  Nanos now_{0};
};

inline double Seconds(Clock::Nanos nanos) { return static_cast<double>(nanos.count()) * 1e-9; }

}  // namespace octavo
