#pragma once

// The notes that the ranks of one group epoch leave for one another while they connect. Pure and
// bounded.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "octavo/v1/cluster.pb.h"

namespace octavo {

class Rendezvous {
 public:
  static constexpr size_t kKeysMax = 4096;
  static constexpr size_t kBytesMax = 4u << 20;
  static constexpr size_t kWaitersMax = 4096;

  // Who asked for what, and the answer.
  struct Answer {
    std::string worker;
    v1::RendezvousValue value;
  };

  // Stores a value (a later one for the same key replaces it) and answers those who wait for it.
  // kBadRequest beyond the bounds.
  absl::Status Put(const v1::RendezvousPut& put, std::vector<Answer>* answers);
  // Answers now or when the key is put. kBadRequest beyond the bound.
  absl::Status Get(const std::string& worker, const v1::RendezvousGet& get,
                   std::vector<Answer>* answers);

 private:
  struct Waiter {
    std::string worker;
    v1::RendezvousGet get;
  };
  Answer AnswerOf(const Waiter& waiter) const;

  std::map<std::string, std::string> values_;
  size_t bytes_ = 0;
  std::vector<Waiter> waiters_;
};

}  // namespace octavo
