"""The SQL of the feature sources: weekly, point-in-time correct history.

A row of week W holds what was known when W began: it counts purchases of weeks before W only. Its timestamp is the Monday
of W at 05:00 UTC, midnight in New York in winter, so that no purchase it counts is later than it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

FIRST_WEEK, LAST_WEEK = 38, 54
WEEK_ONE = datetime(2016, 12, 26, 5, tzinfo=UTC)


def week_start(week: int) -> datetime:
    """Return the moment at which a week of the data begins."""
    return WEEK_ONE + timedelta(weeks=week - 1)


def prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the weekly aggregates that the queries below share."""
    connection.execute("set timezone = 'UTC'")
    connection.execute(f"""
        create table weeks as select w::bigint as w,
            timestamptz '{WEEK_ONE.isoformat()}' + interval 7 day * (w - 1) as event_timestamp
        from range({FIRST_WEEK}, {LAST_WEEK + 1}) as t(w);
        create table catalogue as select product_id, manufacturer_id,
            coalesce(department, '') department, coalesce(brand, '') brand, coalesce(product_category, '') category,
            coalesce(product_type, '') product_type, coalesce(package_size, '') package_size from products;
        create table bought as select household_id, basket_id, t.product_id, week, quantity, sales_value,
            (retail_disc > 0 or coupon_disc > 0)::int as discounted, department
        from transactions t left join catalogue using (product_id);
        create table product_weeks as select product_id, week, count(distinct household_id) households,
            count(*) lines, sum(sales_value) sales, sum(greatest(quantity, 1)) units, sum(discounted) discounted
        from bought group by all;
        create table household_weeks as select household_id, week, count(distinct basket_id) baskets, count(*) lines,
            sum(sales_value) spend, sum(discounted) discounted from bought group by all;
        create table department_weeks as select household_id, department, week, count(*) lines, sum(sales_value) spend,
            sum(discounted) discounted from bought where department is not null group by all;
        create table placements as select product_id, week, avg((display_location <> '0')::int) display_share,
            avg((mailer_location <> '0')::int) mailer_share from promotions where week >= {FIRST_WEEK} group by all;
    """)


def _sum(column: str, weeks: int) -> str:
    return f"coalesce(sum({column}) filter (where h.week >= w - {weeks}), 0)"


_STAMPS = "event_timestamp, event_timestamp as created"

QUERIES = {
    "household_history": f"""
        select household_id, {_STAMPS},
            (w - max(h.week))::float hh_weeks_since, {_sum("baskets", 4)}::float hh_baskets_4w,
            {_sum("baskets", 12)}::float hh_baskets_12w, {_sum("spend", 4)}::float hh_spend_4w,
            {_sum("spend", 12)}::float hh_spend_12w, {_sum("lines", 12)}::float hh_items_12w,
            ({_sum("discounted", 12)} / nullif({_sum("lines", 12)}, 0))::float hh_discount_share,
            ({_sum("spend", 12)} / nullif({_sum("lines", 12)}, 0))::float hh_item_price
        from household_weeks h join weeks on h.week < w group by household_id, w, event_timestamp
        order by event_timestamp, household_id""",
    "household_favourites": f"""
        with ranked as (
            select household_id, w, event_timestamp, department,
                row_number() over (partition by household_id, w order by sum(lines) desc, department) place
            from department_weeks h join weeks on h.week < w and h.week >= w - 26
            group by household_id, w, event_timestamp, department)
        select household_id, {_STAMPS},
            coalesce(max(department) filter (where place = 1), '') favourite_1,
            coalesce(max(department) filter (where place = 2), '') favourite_2,
            coalesce(max(department) filter (where place = 3), '') favourite_3
        from ranked group by household_id, event_timestamp order by event_timestamp, household_id""",
    "household_demographics": f"""
        select household_id, timestamptz '{WEEK_ONE.isoformat()}' event_timestamp, event_timestamp as created,
            coalesce(age, 'missing') age, coalesce(income, 'missing') income,
            coalesce(home_ownership, 'missing') home_ownership, coalesce(marital_status, 'missing') marital_status,
            coalesce(household_size, 'missing') household_size, coalesce(household_comp, 'missing') household_comp,
            coalesce(kids_count, 'missing') kids_count
        from (select distinct household_id from transactions) left join demographics using (household_id)
        order by household_id""",
    "product_attributes": f"""
        select product_id, timestamptz '{WEEK_ONE.isoformat()}' event_timestamp, event_timestamp as created,
            manufacturer_id, department, brand, category, product_type, package_size
        from catalogue order by product_id""",
    "product_text": f"""
        select product_id, timestamptz '{WEEK_ONE.isoformat()}' event_timestamp, event_timestamp as created,
            trim(lower(product_type) || ' ' || lower(package_size) || case brand when 'Private' then ' store brand' else '' end)
                title, department shelf_department, category shelf_category, brand shelf_brand
        from catalogue order by product_id""",
    "product_history": f"""
        select h.product_id, {_STAMPS}, (w - max(h.week))::float p_weeks_since,
            {_sum("households", 1)}::float p_buyers_1w, {_sum("households", 4)}::float p_buyers_4w,
            {_sum("households", 12)}::float p_buyers_12w, sum(households)::float p_buyers_all,
            (sum(households) / (w - min(h.week)))::float p_buyers_per_week,
            ({_sum("discounted", 4)} / nullif({_sum("lines", 4)}, 0))::float p_discount_share_4w,
            (sum(discounted) / sum(lines))::float p_discount_share,
            (sum(sales) / sum(units))::float p_price,
            (arg_max(sales / units, h.week))::float p_last_price,
            (arg_max(sales / units, h.week) / nullif(sum(sales) / sum(units), 0))::float p_price_ratio,
            coalesce(any_value(display_share), 0)::float p_display_share,
            coalesce(any_value(mailer_share), 0)::float p_mailer_share
        from product_weeks h join weeks on h.week < w
            left join placements on placements.product_id = h.product_id and placements.week = w
        group by h.product_id, w, event_timestamp
        order by event_timestamp, product_id""",
    "household_department": f"""
        select household_id, department as department_id, {_STAMPS}, (w - max(h.week))::float hd_weeks_since,
            {_sum("lines", 4)}::float hd_items_4w, {_sum("lines", 12)}::float hd_items_12w,
            sum(lines)::float hd_items_all, {_sum("spend", 12)}::float hd_spend_12w,
            (sum(discounted) / sum(lines))::float hd_discount_share
        from department_weeks h join weeks on h.week < w
        group by household_id, department, w, event_timestamp order by event_timestamp, household_id, department""",
}
