#include "coordinator/membership/membership.h"

#include <string>

#include "core/base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

v1::Hello HelloOf(const std::string& id) {
  v1::Hello hello;
  hello.set_worker_id(id);
  return hello;
}

class MembershipTest : public ::testing::Test {
 protected:
  ManualClock clock_;
  Membership members_{milliseconds(750)};
  uint64_t Join(const std::string& id) { return members_.Join(HelloOf(id), clock_.Now()); }
};

TEST_F(MembershipTest, SilentWorkersAreLostAfterTheLeaseAndNotBefore) {
  const uint64_t a = Join("a");
  Join("b");
  clock_.Advance(milliseconds(700));
  EXPECT_TRUE(members_.Beat(a, clock_.Now(), 100));
  clock_.Advance(milliseconds(50));
  EXPECT_THAT(members_.Expire(clock_.Now()), IsEmpty());
  clock_.Advance(milliseconds(1));
  EXPECT_THAT(members_.Expire(clock_.Now()), ElementsAre("b"));
  EXPECT_THAT(members_.Expire(clock_.Now()), IsEmpty());
  EXPECT_THAT(members_.Ready(), ElementsAre("a"));
  EXPECT_EQ(members_.Find("b")->state, WorkerState::kLost);
  EXPECT_EQ(members_.Find("a")->rss_peak_bytes, 100u);
}

TEST_F(MembershipTest, ABeatCountsFromItsArrivalNotFromItsProcessing) {
  const uint64_t a = Join("a");
  clock_.Advance(milliseconds(5000));  // the coordinator was slow: the beats waited in its queue
  EXPECT_TRUE(members_.Beat(a, milliseconds(4900), 0));
  EXPECT_TRUE(members_.Beat(a, milliseconds(4650), 0));  // older ones change nothing
  EXPECT_THAT(members_.Expire(clock_.Now()), IsEmpty());
}

TEST_F(MembershipTest, APauseOfTheCoordinatorIsNobodysSilence) {
  const uint64_t a = Join("a");
  Join("b");
  EXPECT_THAT(members_.Expire(clock_.Now()), IsEmpty());
  clock_.Advance(milliseconds(250));
  EXPECT_THAT(members_.Expire(clock_.Now()), IsEmpty());
  clock_.Advance(milliseconds(60'000));  // stopped; of this a third of a lease counts
  EXPECT_THAT(members_.Expire(clock_.Now()), IsEmpty());
  EXPECT_TRUE(members_.Beat(a, clock_.Now(), 0));
  clock_.Advance(milliseconds(250));
  EXPECT_THAT(members_.Expire(clock_.Now()), IsEmpty());
  clock_.Advance(milliseconds(1));
  EXPECT_THAT(members_.Expire(clock_.Now()), ElementsAre("b"));  // silent before and after it
}

TEST_F(MembershipTest, ALaterJoinVoidsTheEarlierSession) {
  const uint64_t first = Join("a");
  const uint64_t second = Join("a");
  EXPECT_NE(first, second);
  EXPECT_FALSE(members_.Beat(first, clock_.Now(), 0));
  EXPECT_EQ(members_.OfSession(first), nullptr);
  EXPECT_EQ(members_.Leave(first), "");
  EXPECT_THAT(members_.Ready(), ElementsAre("a"));
  EXPECT_EQ(members_.Leave(second), "a");
  EXPECT_THAT(members_.Ready(), IsEmpty());
  EXPECT_GT(Join("a"), second);
}

TEST_F(MembershipTest, QuarantineIsForGood) {
  const uint64_t a = Join("a");
  members_.Quarantine("a", "wrong digest");
  EXPECT_EQ(members_.OfSession(a), nullptr);
  EXPECT_FALSE(members_.Beat(a, clock_.Now(), 0));
  EXPECT_EQ(Join("a"), 0u);
  EXPECT_THAT(members_.Ready(), IsEmpty());
  EXPECT_EQ(members_.Find("a")->quarantine_why, "wrong digest");
}

TEST_F(MembershipTest, LostWorkersAreForgottenBeyondABound) {
  for (size_t i = 0; i < 3 * Membership::kLostMax; ++i) {
    members_.Leave(Join("w" + std::to_string(i)));
  }
  EXPECT_EQ(members_.members().size(), Membership::kLostMax);
  EXPECT_EQ(members_.Find("w0"), nullptr);
  EXPECT_NE(members_.Find("w" + std::to_string(3 * Membership::kLostMax - 1)), nullptr);
}

}  // namespace
}  // namespace octavo
