#include "coordinator/control/rendezvous.h"

#include <string>
#include <vector>

#include "core/base/error.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

v1::RendezvousPut PutOf(const std::string& key, const std::string& value) {
  v1::RendezvousPut put;
  put.set_group_epoch(9);
  put.set_key(key);
  put.set_value(value);
  return put;
}
v1::RendezvousGet GetOf(const std::string& key, uint64_t call) {
  v1::RendezvousGet get;
  get.set_group_epoch(9);
  get.set_key(key);
  get.set_call(call);
  return get;
}

TEST(Rendezvous, AnswersNowOrWhenTheKeyComes) {
  Rendezvous notes;
  std::vector<Rendezvous::Answer> answers;
  ASSERT_TRUE(notes.Get("a", GetOf("k", 1), &answers).ok());
  ASSERT_TRUE(notes.Get("b", GetOf("other", 2), &answers).ok());
  EXPECT_TRUE(answers.empty());
  ASSERT_TRUE(notes.Put(PutOf("k", "v"), &answers).ok());
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].worker, "a");
  EXPECT_EQ(answers[0].value.call(), 1u);
  EXPECT_EQ(answers[0].value.group_epoch(), 9u);
  EXPECT_EQ(answers[0].value.value(), "v");
  answers.clear();
  ASSERT_TRUE(notes.Get("b", GetOf("k", 3), &answers).ok());
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].value.call(), 3u);
}

TEST(Rendezvous, IsBounded) {
  Rendezvous notes;
  std::vector<Rendezvous::Answer> answers;
  absl::Status status;
  size_t keys = 0;
  for (; status.ok(); ++keys) status = notes.Put(PutOf("k" + std::to_string(keys), "v"), &answers);
  EXPECT_EQ(keys, Rendezvous::kKeysMax + 1);
  EXPECT_EQ(ReasonOf(status), Reason::kBadRequest);
  EXPECT_TRUE(notes.Put(PutOf("k0", "w"), &answers).ok());  // a known key may change
  EXPECT_FALSE(notes.Put(PutOf("k0", std::string(Rendezvous::kBytesMax, 'x')), &answers).ok());
  size_t waiters = 0;
  for (status = absl::OkStatus(); status.ok(); ++waiters) {
    status = notes.Get("a", GetOf("never", waiters), &answers);
  }
  EXPECT_EQ(waiters, Rendezvous::kWaitersMax + 1);
}

}  // namespace
}  // namespace octavo
