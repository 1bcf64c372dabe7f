// Command fleet simulates many instances that ask the service for a token at the same time, and prints what becomes of
// them: how many stay without a token, how often GitHub is called, how long a token takes, and what AWS charges.
//
//	go run ./internal/fleet 1000/60s 10000/5s 10000/60s/3
//	go run ./internal/fleet -share -rate 2000 -burst 1000 100000/60s
//
// simulates fleets of so many instances that start within that time and want one of so many targets (1). Flags change
// the settings, the quotas and the times, for all fleets of the run. The seed decides all that is random: the same run
// has the same result. With -table it prints the figures of docs/performance.md, and with -page it writes them there.
//
// # Assumptions
//
//   - Instances: their first requests are spread over the time evenly at random. Each needs up to 100 ms before a
//     request. A token's time counts from the first request. Source: none, these are simple guesses.
//   - linux.sh: tries for 300 s, sleeps about 1, 2, 4, 8 and then 10 to 20 s after a refusal, and what Retry-After says
//     plus up to a quarter. Source: fetch in examples/user-data/linux.sh, which script.go repeats line by line.
//   - API Gateway: a token bucket of the stage, and one of 10,000 a second and 5,000 at once for the account. A refusal
//     is a 429 without Retry-After. Source: https://docs.aws.amazon.com/apigateway/latest/developerguide/limits.html
//   - Lambda: 1,000 new environments at once, and 100 more each second; 1,000 functions at once in the account, and 10
//     in a new one. An idle environment is used again before a new one starts, the last one first. None ends. Source:
//     https://docs.aws.amazon.com/lambda/latest/dg/scaling-behavior.html; the order is a guess.
//   - Lambda takes 10 requests a second for each function that may run at once, also where concurrency is reserved.
//     Source: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html, which says it of each
//     environment. That it is a limit of all together is how we read it.
//   - Secrets Manager: 10,000 reads a second. The SDK's own second tries are left out. Source:
//     https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html
//   - GitHub: one account for all targets; 180 tokens in any 60 s, 100 calls at once, 5,000 calls an hour. A limited
//     call counts too, and says Retry-After: 60; by the hour, until the hour ends. Source:
//     https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api (900 points a minute, a POST has 5).
//     That limited calls count is a guess, on the safe side.
//   - The function: caches a token for 30 minutes and the credential for 5, reads shared tokens at most every 30 s, and
//     makes no call while GitHub wants none. Source: the package comments of internal/runner, credential and shared.
//   - Shared tokens are refreshed every 20 minutes and are always good. The refresh's own calls, one for each target,
//     are not counted.
//   - Times: 150 ms for a new environment, 200 ms to read a secret, 400 ms for GitHub's token and 250 ms for its
//     refusal, 5 ms for a cached token. These are medians of a lognormal distribution with a sigma of 0.25. Nothing
//     of it was measured on AWS. A first answer takes half as long in a local model, so this is on the safe side.
//   - Prices of us-east-1: 0.0000133334 $ for a GB-second of arm64 with 256 MB, 0.20 $ for a million invocations,
//     1 $ for a million requests, throttled ones too, 0.05 $ for 10,000 reads. The second secret's 0.40 $ a month is
//     not in it. Source: AWS's price pages, from memory; check before you quote them.
//   - Not modelled: a slow or failing GitHub, other functions that use the account's concurrency, other users of the
//     PAT, and the network between instance and API.
package main
