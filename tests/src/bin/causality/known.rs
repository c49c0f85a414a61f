//! What has to hold, and what may not get worse.

use crate::load;
use crate::report::Row;
use crate::runtimes::Runtime;

/// Calls with a wrong parent, at most, in percent: in every row.
pub(crate) const MOST_WRONG: f64 = 0.1;

/// The concurrency that the floors are for.
const AT_ONCE: usize = 16;

/// Calls with a right parent, at least, in percent. Zero where nothing is known.
pub(crate) fn least_right(row: &Row) -> f64 {
    if row.concurrency != AT_ONCE {
        return 0.0;
    }
    let runtime = Runtime::all().into_iter().find(|runtime| runtime.to_string() == row.runtime);
    let column = load::columns().position(|column| column == row.pattern);
    runtime.zip(column).map_or(0.0, |(runtime, column)| f64::from(floors(runtime)[column]))
}

/// The floors of a runtime's columns: below what was measured by as much as a busy or slow
/// machine may take from it. What is told by the thread alone does not depend on the machine.
#[rustfmt::skip]
fn floors(runtime: Runtime) -> [u8; load::PATTERNS.len() + 1] {
    match runtime {
        //                          one  seq  par timer back retry store mixed
        Runtime::Nginx          => [100,   0,   0,   0,   0,   0,   0,   0],
        Runtime::PhpFpm         => [ 99,  99,  99,  99,   0,  99,  99,  85],
        Runtime::PythonThreads  => [100, 100,  99, 100,   0, 100,  99,  85],
        Runtime::Gunicorn       => [100, 100,  99, 100,   0, 100,  99,  85],
        Runtime::Gevent         => [ 99,  99,   0,  99,   0,  99,  99,  50],
        Runtime::Aiohttp        => [ 99,  99,  99,  99,   0,  99,  99,  85],
        Runtime::FastapiAsync   => [ 99,  99,  99,  99,   0,  99,  99,  85],
        Runtime::FastapiUvloop  => [ 99,  99,  99,  99,   0,  99,  99,  85],
        Runtime::FastapiDef     => [ 99,  99,  99,  99,   0,  99,  99,  85],
        // An event loop has to earn trust again after the quiet time, and when it lost it, as now and
        // then to a pause.
        Runtime::NodeHttp       => [ 50,  90,  20,   0,   0,  70,  40,   0],
        Runtime::NodeExpress    => [ 50,  90,  20,   0,   0,  70,  40,   0],
        Runtime::NodeFetch      => [ 50,  90,  20,   0,   0,  70,  40,   0],
        Runtime::NodeUndici     => [ 50,  90,  20,   0,   0,  70,  40,   0],
        Runtime::Go             => [ 99,  99,  99,  99,   0,  99,  99,  80],
        Runtime::Axum           => [ 98,  98,  98,  98,   0,  98,  98,  85],
        Runtime::AxumSpawned    => [ 98,  98,  98,  98,   0,  98,  98,  85],
        Runtime::PythonExecutor => [ 99,  99,  99,  99,   0,  99,  99,  85],
        Runtime::JavaThreads    => [ 99,  99,   0,  99,   0,  99,  99,  50],
        Runtime::JavaPool       => [  0,   0,   0,   0,   0,   0,   0,   0],
        Runtime::Java           => [  0,   0,   0,   0,   0,   0,   0,   0],
        Runtime::Puma           => [ 99,  99,   0,  99,   0,  99,  99,  50],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::truth::Verdict;

    fn row(concurrency: usize, right: usize, wrong: usize) -> Row {
        let verdict = Verdict { right, missing: 1000 - right - wrong, wrong, ..Verdict::default() };
        Row::new(Runtime::NodeHttp, "retry", concurrency, false, verdict)
    }

    #[test]
    fn one_wrong_parent_is_borne_and_two_of_a_thousand_are_not() {
        assert_eq!(row(16, 950, 1).falls_behind(), None);
        assert!(row(16, 950, 2).falls_behind().is_some());
        assert!(row(128, 950, 2).falls_behind().is_some());
    }

    #[test]
    fn fewer_right_parents_than_the_floor_of_the_column_are_too_few() {
        let floor = f64::from(floors(Runtime::NodeHttp)[5]);
        assert_eq!(least_right(&row(16, 0, 0)), floor);
        assert!(floor > 0.0 && row(16, 0, 0).falls_behind().is_some());
        // Floors are for one concurrency.
        assert_eq!(row(128, 0, 0).falls_behind(), None);
    }

    #[test]
    fn what_a_service_does_not_have_has_no_floor() {
        for runtime in Runtime::all() {
            for (floor, column) in floors(runtime).into_iter().zip(load::columns()) {
                assert!(floor == 0 || runtime.has_column(column), "{runtime}, {column}");
                assert!(floor <= 100, "{runtime}, {column}");
            }
        }
    }
}
